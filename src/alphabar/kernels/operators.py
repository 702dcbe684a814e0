"""The kernels as torch operators `torch.ops.alphabar.*`: each has an implementation for the CPU, a fake one that gives shapes (for
torch.compile and torch.export), and its gradients.

Operators are defined by `torch.library.Library` and not by `custom_op`, whose wrappers cost several times as much at each call. A
`*_backward` operator has no derivative: a second derivative raises an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from .calls import PLAIN, result_size
from .on_cpu import ON_CPU, check_convolution

LIBRARY = torch.library.Library("alphabar", "DEF")
SCHEMAS = (
    "group_norm(Tensor x, Tensor gain, Tensor bias, Tensor offset, int groups, float eps, bool silu) -> (Tensor, Tensor)",
    "group_norm_backward(Tensor g, Tensor x, Tensor gain, Tensor coefficients, int groups, bool silu) -> (Tensor, Tensor)",
    "norm_convolution(Tensor x, Tensor gain, Tensor bias, Tensor offset, Tensor weight, Tensor? shift, Tensor? added, "
    "int groups, float eps) -> (Tensor, Tensor)",
    "norm_convolution_backward(Tensor g, Tensor x, Tensor gain, Tensor weight, Tensor coefficients, int groups, "
    "bool of_weight, bool of_shift) -> (Tensor, Tensor, Tensor, Tensor)",
    "convolution(Tensor x, Tensor weight, Tensor? shift, Tensor? added, int kind) -> Tensor",
    "convolution_backward(Tensor g, Tensor x, Tensor weight, int kind, bool of_x, bool of_weight, bool of_shift) "
    "-> (Tensor, Tensor, Tensor)",
    "attention(Tensor qkv, int heads) -> (Tensor, Tensor)",
    "attention_backward(Tensor g, Tensor qkv, Tensor out, Tensor lse) -> Tensor",
)
for schema in SCHEMAS:
    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
OPS = torch.ops.alphabar


# ---- Shapes for fake tensors ----


def fake_pictures(like: Tensor, channels: int, kind: int = PLAIN) -> Tensor:
    """As `calls.empty_pictures`, on the device of `like`."""
    n, channels, height, width = result_size(like, channels, kind)
    return like.new_empty((n, height, width, channels)).permute(0, 3, 1, 2)


def fake_rows(count: int, x: Tensor) -> Tensor:
    """(count, N, C) float32."""
    return x.new_empty((count, *x.shape[:2]), dtype=torch.float32)


def fake_gradients(
    x: Tensor, weight: Tensor, of_x: bool, of_weight: bool, of_shift: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """As `convolution_gradients`."""
    return (
        fake_pictures(x, x.shape[1]) if of_x else x.new_empty(0),
        weight.new_empty(weight.shape if of_weight else (0,)),
        weight.new_empty(weight.shape[:1] if of_shift else (0,)),
    )


def fake_norm_convolution_backward(
    g: Tensor, x: Tensor, gain: Tensor, weight: Tensor, coefficients: Tensor, groups: int, of_weight: bool, of_shift: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """As `norm_convolution_backward_on_cpu`."""
    gx, *others = fake_gradients(x, weight, True, of_weight, of_shift)
    return gx, fake_rows(3, x), others[0], others[1]


def fake_convolution(x: Tensor, weight: Tensor, shift: Tensor | None, added: Tensor | None, kind: int) -> Tensor:
    """As `convolution_on_cpu`, with its checks."""
    check_convolution(x, weight, added, kind)
    return fake_pictures(x, weight.shape[0], kind)


FAKES: dict[str, Callable[..., Any]] = {
    "group_norm": lambda x, *_: (fake_pictures(x, x.shape[1]), fake_rows(5, x)),
    "group_norm_backward": lambda g, x, *_: (fake_pictures(x, x.shape[1]), fake_rows(3, x)),
    "norm_convolution": lambda x, gain, bias, offset, weight, *_: (fake_pictures(x, weight.shape[0]), fake_rows(5, x)),
    "norm_convolution_backward": fake_norm_convolution_backward,
    "convolution": fake_convolution,
    "convolution_backward": lambda g, x, weight, kind, *wanted: fake_gradients(x, weight, *wanted),
    "attention": lambda qkv, heads: (
        fake_pictures(qkv, qkv.shape[1] // 3),
        qkv.new_empty((len(qkv), heads, qkv.shape[2] * qkv.shape[3]), dtype=torch.float32),
    ),
    "attention_backward": lambda g, qkv, *_: fake_pictures(qkv, qkv.shape[1]),
}


# ---- Gradients ----


def is_direct(arguments: tuple[Any, ...]) -> bool:
    """Whether a call needs no dispatcher: plain tensors on the CPU, and nothing that watches or traces.

    Between large products the dispatcher's Python code is cold in the processor's cache, and would cost some percent of a step.
    """
    return (
        not torch.compiler.is_compiling()
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._len_torch_function_stack() == 0
        and arguments[0].is_cpu
        and all(type(v) in PLAIN_TYPES for v in arguments)
    )


PLAIN_TYPES = {Tensor, torch.nn.Parameter, int, float, bool, type(None)}


def call(name: str, *arguments: Any) -> Any:
    """Call the operator of this name, directly where that is the same."""
    if not is_direct(arguments):
        return operator_of(name)(*arguments)
    return GRADIENTS[name].apply(*arguments) if needs_gradient(arguments) else ON_CPU[name](*arguments)


def operator_of(name: str) -> Any:
    """The registered operator."""
    return getattr(OPS, name).default


def needs_gradient(arguments: tuple[Any, ...]) -> bool:
    """Whether autograd records a call."""
    return torch.is_grad_enabled() and any(isinstance(v, Tensor) and v.requires_grad for v in arguments)


def below_autograd(name: str, *arguments: Any) -> Any:
    """Call the operator without recording it."""
    if is_direct(arguments):
        return ON_CPU[name](*arguments)
    with torch._C._AutoDispatchBelowAutograd():
        return operator_of(name)(*arguments)


def backward(name: str, *arguments: Any) -> Any:
    """Call a `*_backward` operator; it is recorded only where its own derivative could be needed."""
    return operator_of(name)(*arguments) if torch.is_grad_enabled() else below_autograd(name, *arguments)


class GroupNormFunction(Function):
    """`group_norm` with its gradients; of its pictures only x is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
        """Normalise."""
        y, coefficients = below_autograd("group_norm", x, gain, *others)
        ctx.save_for_backward(x, gain, coefficients)
        ctx.mark_non_differentiable(coefficients)
        ctx.groups, ctx.silu = others[2], others[4]
        return y, coefficients

    @staticmethod
    def backward(ctx: Any, g: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of x, gain, bias and offset."""
        gx, rows = backward("group_norm_backward", g, *ctx.saved_tensors, ctx.groups, ctx.silu)
        return gx, *rows.unbind(), None, None, None


class NormConvolutionFunction(Function):
    """`norm_convolution` with its gradients; of its pictures only x is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
        """Normalise, then convolve."""
        y, coefficients = below_autograd("norm_convolution", x, gain, *others)
        ctx.save_for_backward(x, gain, others[2], coefficients)
        ctx.mark_non_differentiable(coefficients)
        ctx.groups = others[5]
        return y, coefficients

    @staticmethod
    def backward(ctx: Any, g: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of x, gain, bias, offset, weight, shift and what was added."""
        _, _, _, _, of_weight, of_shift, of_added, _, _ = ctx.needs_input_grad
        gx, rows, *parts = backward("norm_convolution_backward", g, *ctx.saved_tensors, ctx.groups, of_weight, of_shift)
        parts = [part if wanted else None for part, wanted in zip(parts, (of_weight, of_shift), strict=True)]
        return gx, *rows.unbind(), *parts, g if of_added else None, None, None


class ConvolutionFunction(Function):
    """`convolution` with its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, shift: Tensor | None, added: Tensor | None, kind: int) -> Tensor:
        """Convolve."""
        ctx.save_for_backward(x, weight)
        ctx.kind = kind
        y: Tensor = below_autograd("convolution", x, weight, shift, added, kind)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of x, weight, shift and what was added."""
        wanted, g = ctx.needs_input_grad[:3], grads[0]
        parts = backward("convolution_backward", g, *ctx.saved_tensors, ctx.kind, *wanted)
        parts = [part if is_wanted else None for part, is_wanted in zip(parts, wanted, strict=True)]
        return *parts, g if ctx.needs_input_grad[3] else None, None


class AttentionFunction(Function):
    """`attention` with its gradient; the weights are computed again in the backward pass (Dao et al. 2022)."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, heads: int) -> tuple[Tensor, Tensor]:
        """Attend."""
        out, lse = below_autograd("attention", qkv, heads)
        ctx.save_for_backward(qkv, out, lse)
        ctx.mark_non_differentiable(lse)
        return out, lse

    @staticmethod
    def backward(ctx: Any, g: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of qkv."""
        return backward("attention_backward", g, *ctx.saved_tensors), None


class NoSecondDerivative(Function):
    """A `*_backward` operator, called where its own derivative could be needed."""

    @staticmethod
    def forward(ctx: Any, name: str, *arguments: Any) -> Any:
        """Call it."""
        ctx.name = name
        return below_autograd(name, *arguments)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """There is none."""
        raise RuntimeError(
            f"{ctx.name} has no derivative: the fused kernels give first derivatives only; compute the network with kernels=native"
        )


def recorded(name: str) -> Callable[..., Any]:
    """The implementation for autograd: a function with gradients where one is needed, otherwise the operator alone."""

    def call(*arguments: Any) -> Any:
        if not needs_gradient(arguments):
            return below_autograd(name, *arguments)
        return GRADIENTS[name].apply(*arguments) if name in GRADIENTS else NoSecondDerivative.apply(name, *arguments)

    return call


GRADIENTS: dict[str, type[Function]] = {
    "group_norm": GroupNormFunction,
    "norm_convolution": NormConvolutionFunction,
    "convolution": ConvolutionFunction,
    "attention": AttentionFunction,
}


def register() -> None:
    """Give every operator its implementations."""
    for name, function in ON_CPU.items():
        LIBRARY.impl(name, function, "CPU")
        torch.library.register_fake(f"alphabar::{name}", FAKES[name], lib=LIBRARY)
        LIBRARY.impl(name, recorded(name), "Autograd")


register()

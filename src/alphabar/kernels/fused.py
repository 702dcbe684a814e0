"""Faster ways to compute what the networks compute: fused group normalisation, its convolution, convolutions, attention, one convolution
for upsampling. Each gives what the plain formula gives, up to rounding; which one runs is the caller's choice (`speed.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import native


def fused_group_norm(
    x: Tensor, gain: Tensor, bias: Tensor, groups: int, eps: float, offset: Tensor | None = None, silu: bool = True
) -> Tensor:
    """x (N, C, H, W) -> silu(norm(x + offset) gain + bias), or without the SiLU; gain, bias and offset (N, C) or (C,).

    norm takes mean and variance over each of the groups of channels and all places (Wu & He 2018). Two passes over memory forward and
    two backward; only x is kept for the way back. Statistics in float32.
    """
    return FusedGroupNorm.apply(native.last(x), *rows_of(x, gain, bias, offset), groups, eps, silu)


def rows_of(x: Tensor, *rows: Tensor | None) -> list[Tensor]:
    """Each as (N, C) float32; None is 0."""
    shape = x.shape[:2]
    return [
        x.new_zeros(shape, dtype=torch.float32) if v is None else v.float().expand(shape).contiguous() for v in rows
    ]


class FusedGroupNorm(torch.autograd.Function):
    """y = act(A x + B), one A and B for each picture and channel."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gain: Tensor, bias: Tensor, offset: Tensor, groups: int, eps: float, silu: bool
    ) -> Tensor:
        """Statistics in one pass, the result in another."""
        scale, shift, *others = native.norm_coefficients(x, gain, bias, offset, groups, eps)
        ctx.save_for_backward(x, gain, scale, shift, *others)
        ctx.groups, ctx.silu = groups, silu
        return native.affine(x, scale, shift, silu)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Two sums over places in one pass, the gradient of x in another."""
        x, *kept = ctx.saved_tensors
        return *norm_gradients(native.last(grads[0]), x, kept, ctx.groups, ctx.silu), None, None, None


def norm_gradients(g: Tensor, x: Tensor, kept: list[Tensor], groups: int, silu: bool) -> tuple[Tensor, ...]:
    """The gradients of x, gain, bias and offset from that of act(A x + B)."""
    along_x, constant, *others = native.norm_gradients(g, x, kept, groups, silu)
    return native.norm_backward(g, x, kept[1], kept[2], along_x, constant, silu), *others


def norm_convolution(
    x: Tensor, gain: Tensor, bias: Tensor, groups: int, eps: float, offset: Tensor | None, weight: Tensor, shift: Tensor | None,
    added: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """x (N, C, H, W) -> the 3x3 convolution, weight (O, C, 3, 3) and shift (O,), of silu(norm(x + offset) gain + bias), in the type of x,
    plus `added` (N, O, H, W).

    What is convolved is computed on the way into the convolution, and again on the way back, so that only x is kept: half the memory
    of both one after the other. The convolution goes by Winograd's algorithm where it has channels enough.
    """
    added = None if added is None else native.last(added.to(x.dtype))
    rows = rows_of(x, gain, bias, offset)
    y: Tensor = NormConvolution.apply(native.last(x), *rows, weight, shift, added, groups, eps)
    return y


class NormConvolution(torch.autograd.Function):
    """`FusedGroupNorm` with its convolution."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gain: Tensor,
        bias: Tensor,
        offset: Tensor,
        weight: Tensor,
        shift: Tensor | None,
        added: Tensor | None,
        groups: int,
        eps: float,
    ) -> Tensor:
        """Normalise, then convolve."""
        factor, constant, *others = native.norm_coefficients(x, gain, bias, offset, groups, eps)
        ctx.save_for_backward(x, gain, weight, factor, constant, *others)
        ctx.groups = groups
        if native.fits(weight):
            return convolved(x, weight, shift, native.PLAIN, factor, constant, added)
        shift = None if shift is None else shift.to(x.dtype)
        y = F.conv2d(native.affine(x, factor, constant, True), weight.to(x.dtype), shift, padding=1)
        return y if added is None else y.add_(added)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The convolution's gradients, then those of the norm."""
        x, gain, weight, *kept = ctx.saved_tensors
        g, wanted = native.last(grads[0]), (True, *ctx.needs_input_grad[4:6])
        if native.fits(weight):
            of_input, *found = gradients(g, x, weight, wanted, native.PLAIN, kept[0], kept[1])
        else:
            of_input, *found = plain_gradients(g, x, weight, wanted, kept[0], kept[1])
        assert of_input is not None
        of_added = g if ctx.needs_input_grad[6] else None
        return *norm_gradients(of_input, x, [gain, *kept], ctx.groups, True), *found, of_added, None, None


def convolution(
    x: Tensor, weight: Tensor, shift: Tensor | None, way: int = native.PLAIN, added: Tensor | None = None
) -> Tensor:
    """x (N, C, H, W) -> the convolution, `way` as `native.convolve` has it, of weight (O, C, taps, taps) and shift (O,), in the type of x,
    plus `added`, of the shape of the result. The weight is one that `native.fits`."""
    added = None if added is None else native.last(added.to(x.dtype))
    y: Tensor = Convolution.apply(native.last(x), weight, shift, added, way)
    return y


class Convolution(torch.autograd.Function):
    """A convolution by the compiled kernels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, shift: Tensor | None, added: Tensor | None, way: int) -> Tensor:
        """Convolve."""
        ctx.save_for_backward(x, weight)
        ctx.way = way
        return convolved(x, weight, shift, way, added=added)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of x, weight, shift and what was added."""
        x, weight = ctx.saved_tensors
        g = native.last(grads[0])
        of_added = g if ctx.needs_input_grad[3] else None
        return *gradients(g, x, weight, ctx.needs_input_grad[:3], ctx.way), of_added, None


def convolved(
    x: Tensor,
    weight: Tensor,
    shift: Tensor | None,
    way: int,
    factor: Tensor | None = None,
    constant: Tensor | None = None,
    added: Tensor | None = None,
) -> Tensor:
    """`native.convolve` with a weight and a shift as a layer has them. Raises RuntimeError, as torch does, for shapes that do not fit."""
    taps = 1 if way == native.SINGLE else 3
    if tuple(weight.shape[1:]) != (x.shape[1], taps, taps):
        raise RuntimeError(
            f"a weight of shape (O, {x.shape[1]}, {taps}, {taps}) is needed for pictures of shape {tuple(x.shape)}, got {tuple(weight.shape)}"
        )
    times = 2 if way == native.DOUBLED else 1
    made = (len(x), len(weight), times * x.shape[2], times * x.shape[3])
    if added is not None and tuple(added.shape) != made:
        raise RuntimeError(f"what is added must have the shape of the result, {made}, got {tuple(added.shape)}")
    shift = None if shift is None else shift.float()
    kernel = native.packed(weight, x.dtype, way)
    return native.convolve(x, kernel, len(weight), shift, factor, constant, added, way)


def gradients(
    g: Tensor,
    x: Tensor,
    weight: Tensor,
    wanted: Sequence[bool],
    way: int,
    factor: Tensor | None = None,
    constant: Tensor | None = None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of what is convolved, of the weight and of the shift; None for what is not wanted."""
    of_input = of_weight = of_shift = None
    if wanted[0]:
        back = native.TURNED[way]
        of_input = native.convolve(g, native.packed(weight, x.dtype, back, turned=True), x.shape[1], way=back)
    if wanted[1]:
        of_weight = native.kernel_gradient(x, g, factor, constant, way).to(weight.dtype)
    if wanted[2]:
        of_shift = native.channel_sums(g).to(weight.dtype)
    return of_input, of_weight, of_shift


def plain_gradients(
    g: Tensor, x: Tensor, weight: Tensor, wanted: Sequence[bool], factor: Tensor, constant: Tensor
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The same by torch's own convolution."""
    of_input, *found = torch.ops.aten.convolution_backward(
        g, native.affine(x, factor, constant, True), weight.to(x.dtype), weight.shape[:1],
        [1, 1], [1, 1], [1, 1], False, [0, 0], 1, list(wanted),
    )  # fmt: skip
    of_weight, of_shift = (None if part is None else part.to(weight.dtype) for part in found)
    return native.last(of_input), of_weight, of_shift


class FusedAttention(torch.autograd.Function):
    """softmax(q k^T / sqrt(d)) v for qkv (N, 3 heads d, H, W), the channels of q, then those of k and v -> (N, heads d, H, W).

    Each place attends to all H W. The weights are computed again on the way back instead of being kept (Dao et al. 2022).
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, heads: int) -> Tensor:
        """Attend."""
        qkv = native.last(qkv)
        out, lse = native.attention(qkv, heads)
        ctx.save_for_backward(qkv, out, lse)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of qkv."""
        return native.attention_gradients(native.last(grads[0]), *ctx.saved_tensors), None


def doubled_convolution(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 3x3 convolution (O, I, 3, 3) of x (N, I, H, W) after nearest-neighbour doubling, as one transposed convolution.

    Each output pixel sees 2x2 pixels of x and not 3x3 copies of them: the kernel of 4x4 is the 3x3 one spread by 2x2 ones, and there
    are 16 products for each pixel of x instead of 36.
    """
    spread = F.pad(weight, (1, 1, 1, 1))
    kernel = spread[..., :-1, :-1] + spread[..., 1:, :-1] + spread[..., :-1, 1:] + spread[..., 1:, 1:]
    return F.conv_transpose2d(x, kernel.transpose(0, 1).flip(2, 3), bias, stride=2, padding=1)

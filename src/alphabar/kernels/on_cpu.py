"""What each operator computes on the CPU, after checks of its arguments: the compiled functions trust their callers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import calls
from .calls import BACKWARD_KIND, PLAIN, SINGLE, TYPES, channels_last, result_size

FEWEST_CHANNELS = 16  # of a convolution: below that most of what the kernels multiply would be zeros


# ---- Checks ----


def fits(weight: Tensor) -> bool:
    """Whether a convolution of this weight (O, C, 3, 3) or (O, C, 1, 1) is worth the kernels."""
    outputs, channels, rows, columns = weight.shape
    return min(outputs, channels) >= FEWEST_CHANNELS and rows == columns and rows in (1, 3)


def check_pictures(x: Tensor, *others: Tensor | None) -> None:
    """Raise RuntimeError for other than (N, C, H, W) in float32 or bfloat16, and for others of another type."""
    dtype = x.dtype
    if x.ndim != 4 or dtype not in TYPES:
        raise RuntimeError(
            f"the kernels take pictures (N, C, H, W) in float32 or bfloat16, got {tuple(x.shape)} in {dtype}"
        )
    for other in others:
        if other is not None and other.dtype is not dtype:
            raise RuntimeError(f"the kernels take pictures of one type, got {dtype} and {other.dtype}")


def check_same(g: Tensor, shape: tuple[int, ...]) -> None:
    """Raise RuntimeError for a gradient of another shape than its tensor."""
    if g.shape != shape:
        raise RuntimeError(f"the gradient must have the shape of the result, {tuple(shape)}, got {tuple(g.shape)}")


def check_norm(x: Tensor, groups: int, *rows: Tensor, coefficients: Tensor | None = None) -> None:
    """Raise RuntimeError for groups that do not divide the channels, and for rows other than (N, C) in contiguous float32."""
    n, channels, _, _ = x.shape
    if groups < 1 or channels % groups:
        raise RuntimeError(f"the number of groups must divide the {channels} channels, got {groups}")
    for row in rows:
        check_floats(row, (n, channels))
    if coefficients is not None:
        check_floats(coefficients, (5, n, channels))


def check_floats(row: Tensor, shape: tuple[int, ...]) -> None:
    """Raise RuntimeError for a tensor of another shape, and for other than contiguous float32."""
    if row.shape != shape or row.dtype is not torch.float32 or not row.is_contiguous():
        raise RuntimeError(f"rows {shape} in contiguous float32 are needed, got {tuple(row.shape)} in {row.dtype}")


def check_convolution(x: Tensor, weight: Tensor, added: Tensor | None, kind: int) -> None:
    """Raise RuntimeError, as torch does, for shapes that do not fit."""
    if kind not in BACKWARD_KIND:
        raise RuntimeError(f"kind of convolution: expected one of {sorted(BACKWARD_KIND)}, got {kind}")
    taps, channels, shape = 1 if kind == SINGLE else 3, x.shape[1], weight.shape
    if len(shape) != 4 or shape[1] != channels or shape[2] != taps or shape[3] != taps:
        raise RuntimeError(
            f"a weight of shape (O, {channels}, {taps}, {taps}) is needed for pictures of shape {tuple(x.shape)}, got {tuple(shape)}"
        )
    if added is not None and added.shape != result_size(x, shape[0], kind):
        expected = result_size(x, shape[0], kind)
        raise RuntimeError(f"what is added must have the shape of the result, {expected}, got {tuple(added.shape)}")


# ---- On the CPU ----


def group_norm_on_cpu(
    x: Tensor, gain: Tensor, bias: Tensor, offset: Tensor, groups: int, eps: float, silu: bool
) -> tuple[Tensor, Tensor]:
    """act(norm(x + offset) gain + bias), and the coefficients (5, N, C) of the norm. One pass for the statistics, one for the result."""
    check_pictures(x)
    check_norm(x, groups, gain, bias, offset)
    x = channels_last(x)
    coefficients = calls.norm_coefficients(x, gain, bias, offset, groups, eps)
    return calls.affine(x, coefficients[0], coefficients[1], silu), coefficients


def group_norm_backward_on_cpu(
    g: Tensor, x: Tensor, gain: Tensor, coefficients: Tensor, groups: int, silu: bool
) -> tuple[Tensor, Tensor]:
    """The gradient of x, and those of gain, bias and offset as rows (3, N, C)."""
    check_pictures(x, g)
    check_same(g, x.shape)
    check_norm(x, groups, gain, coefficients=coefficients)
    return norm_gradients(channels_last(g), channels_last(x), gain, coefficients, groups, silu)


def norm_gradients(
    g: Tensor, x: Tensor, gain: Tensor, coefficients: Tensor, groups: int, silu: bool
) -> tuple[Tensor, Tensor]:
    """`group_norm_backward_on_cpu` without its checks."""
    along_x, constant, rows = calls.norm_gradients(g, x, gain, coefficients, groups, silu)
    return calls.norm_backward(g, x, coefficients[0], coefficients[1], along_x, constant, silu), rows


def norm_convolution_on_cpu(
    x: Tensor, gain: Tensor, bias: Tensor, offset: Tensor, weight: Tensor, shift: Tensor | None, added: Tensor | None,
    groups: int, eps: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The 3x3 convolution of silu(norm(x + offset) gain + bias) plus shift and `added`, and the coefficients of the norm."""
    check_pictures(x, added)
    check_norm(x, groups, gain, bias, offset)
    check_convolution(x, weight, added, PLAIN)
    x = channels_last(x)
    coefficients = calls.norm_coefficients(x, gain, bias, offset, groups, eps)
    factor, constant = coefficients[0], coefficients[1]
    if fits(weight):
        return convolved(x, weight, shift, added, PLAIN, factor, constant), coefficients
    shift = None if shift is None else shift.to(x.dtype)
    y = F.conv2d(calls.affine(x, factor, constant, True), weight.to(x.dtype), shift, padding=1)
    return y if added is None else y.add_(added), coefficients


def norm_convolution_backward_on_cpu(
    g: Tensor, x: Tensor, gain: Tensor, weight: Tensor, coefficients: Tensor, groups: int, of_weight: bool, of_shift: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradients of x, of gain, bias and offset as rows (3, N, C), of weight and shift; empty where not wanted.

    The input of the convolution is computed again.
    """
    check_pictures(x, g)
    check_same(g, result_size(x, weight.shape[0], PLAIN))
    check_norm(x, groups, gain, coefficients=coefficients)
    check_convolution(x, weight, None, PLAIN)
    g, x = channels_last(g), channels_last(x)
    by = convolution_gradients if fits(weight) else torch_gradients
    of_input, *others = by(g, x, weight, PLAIN, (True, of_weight, of_shift), coefficients[0], coefficients[1])
    return *norm_gradients(of_input, x, gain, coefficients, groups, True), others[0], others[1]


def convolution_on_cpu(x: Tensor, weight: Tensor, shift: Tensor | None, added: Tensor | None, kind: int) -> Tensor:
    """The convolution of this kind (`calls.convolve`), plus shift and `added`."""
    check_pictures(x, added)
    check_convolution(x, weight, added, kind)
    return convolved(channels_last(x), weight, shift, added, kind)


def convolution_backward_on_cpu(
    g: Tensor, x: Tensor, weight: Tensor, kind: int, of_x: bool, of_weight: bool, of_shift: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, weight and shift; empty where not wanted."""
    check_pictures(x, g)
    check_convolution(x, weight, None, kind)
    check_same(g, result_size(x, weight.shape[0], kind))
    return convolution_gradients(channels_last(g), channels_last(x), weight, kind, (of_x, of_weight, of_shift))


def convolved(
    x: Tensor, weight: Tensor, shift: Tensor | None, added: Tensor | None, kind: int,
    factor: Tensor | None = None, constant: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """`calls.convolve` with weight and shift as a layer has them."""
    shift = None if shift is None else shift.float().contiguous()
    added = None if added is None else channels_last(added)
    kernel = calls.packed(weight, x.dtype, kind)
    return calls.convolve(x, kernel, weight.shape[0], shift, factor, constant, added, kind)


def convolution_gradients(
    g: Tensor, x: Tensor, weight: Tensor, kind: int, wanted: tuple[bool, bool, bool],
    factor: Tensor | None = None, constant: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradients of the input, of the weight and of the shift by the kernels; empty where not wanted."""
    of_input = of_weight = of_shift = None
    if wanted[0]:
        back = BACKWARD_KIND[kind]
        of_input = calls.convolve(g, calls.packed(weight, x.dtype, back, turned=True), x.shape[1], kind=back)
    if wanted[1]:
        of_weight = calls.kernel_gradient(x, g, factor, constant, kind).to(weight.dtype)
    if wanted[2]:
        of_shift = calls.channel_sums(g).to(weight.dtype)
    return (
        x.new_empty(0) if of_input is None else of_input,
        weight.new_empty(0) if of_weight is None else of_weight,
        weight.new_empty(0) if of_shift is None else of_shift,
    )


def torch_gradients(
    g: Tensor, x: Tensor, weight: Tensor, kind: int, wanted: tuple[bool, bool, bool], factor: Tensor, constant: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The same by torch's own 3x3 convolution, for layers of few channels."""
    of_input, *others = torch.ops.aten.convolution_backward(
        g, calls.affine(x, factor, constant, True), weight.to(x.dtype), weight.shape[:1],
        [1, 1], [1, 1], [1, 1], False, [0, 0], 1, list(wanted),
    )  # fmt: skip
    of_weight, of_shift = (
        weight.new_empty(0) if part is None else part.to(weight.dtype).contiguous() for part in others
    )
    return channels_last(of_input), of_weight, of_shift


def attention_on_cpu(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """The attention of `fused.fused_attention`, and the logarithms of the sums of its weights (N, heads, H W)."""
    check_pictures(qkv)
    if heads < 1 or qkv.shape[1] % (3 * heads):
        raise RuntimeError(f"qkv needs 3 heads d channels, got {qkv.shape[1]} channels for {heads} heads")
    return calls.attention(channels_last(qkv), heads)


def attention_backward_on_cpu(g: Tensor, qkv: Tensor, out: Tensor, lse: Tensor) -> Tensor:
    """The gradient of qkv. The weights of the attention are computed again."""
    check_pictures(qkv, g, out)
    check_same(g, out.shape)
    return calls.attention_gradients(channels_last(g), channels_last(qkv), channels_last(out), lse.contiguous())


ON_CPU: dict[str, Callable[..., Any]] = {
    "group_norm": group_norm_on_cpu,
    "group_norm_backward": group_norm_backward_on_cpu,
    "norm_convolution": norm_convolution_on_cpu,
    "norm_convolution_backward": norm_convolution_backward_on_cpu,
    "convolution": convolution_on_cpu,
    "convolution_backward": convolution_backward_on_cpu,
    "attention": attention_on_cpu,
    "attention_backward": attention_backward_on_cpu,
}

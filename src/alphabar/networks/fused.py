"""Faster ways to compute what the networks compute: fused group normalisation, its convolution, attention, one convolution for
upsampling. Each gives what the plain formula gives, up to rounding; which one runs is the caller's choice (`speed.py`).
"""

from __future__ import annotations

from collections.abc import Callable
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
    x: Tensor, gain: Tensor, bias: Tensor, groups: int, eps: float, offset: Tensor | None, weight: Tensor, shift: Tensor | None
) -> Tensor:  # fmt: skip
    """x (N, C, H, W) -> the 3x3 convolution, weight (O, C, 3, 3) and shift (O,), of silu(norm(x + offset) gain + bias), in the type of x.

    What is convolved is computed on the way into the convolution, and again on the way back, so that only x is kept: half the memory
    of both one after the other. The convolution goes by Winograd's algorithm where it has channels enough.
    """
    y: Tensor = NormConvolution.apply(native.last(x), *rows_of(x, gain, bias, offset), weight, shift, groups, eps)
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
        groups: int,
        eps: float,
    ) -> Tensor:
        """Normalise, then convolve."""
        factor, constant, *others = native.norm_coefficients(x, gain, bias, offset, groups, eps)
        ctx.save_for_backward(x, gain, weight, factor, constant, *others)
        ctx.groups = groups
        if native.fits(weight):
            added = None if shift is None else shift.float()
            return native.convolve(x, native.packed(weight, x.dtype), len(weight), added, factor, constant)
        added = None if shift is None else shift.to(x.dtype)
        return F.conv2d(native.affine(x, factor, constant, True), weight.to(x.dtype), added, padding=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The convolution's gradients, then those of the norm."""
        x, gain, weight, *kept = ctx.saved_tensors
        way: Callable[..., tuple[Any, ...]] = winograd_gradients if native.fits(weight) else plain_gradients
        g, *found = way(native.last(grads[0]), x, weight, kept[0], kept[1], ctx.needs_input_grad[4:6])
        parts = (None if part is None else part.to(weight.dtype) for part in found)
        return *norm_gradients(g, x, [gain, *kept], ctx.groups, True), *parts, None, None


def winograd_gradients(
    g: Tensor, x: Tensor, weight: Tensor, factor: Tensor, constant: Tensor, wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The gradients of what is convolved, of the weight and of the shift, by Winograd's algorithm; None for what is not wanted."""
    of_weight = native.kernel_gradient(x, g, factor, constant) if wanted[0] else None
    of_shift = native.channel_sums(g) if wanted[1] else None
    turned = native.packed(weight, x.dtype, turned=True)
    return native.convolve(g, turned, x.shape[1], None, None, None), of_weight, of_shift


def plain_gradients(
    g: Tensor, x: Tensor, weight: Tensor, factor: Tensor, constant: Tensor, wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The same by torch's own convolution."""
    of_input, of_weight, of_shift = torch.ops.aten.convolution_backward(
        g, native.affine(x, factor, constant, True), weight.to(x.dtype), weight.shape[:1],
        [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True, *wanted],
    )  # fmt: skip
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

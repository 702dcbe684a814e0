"""Faster forms of what networks compute: fused group normalisation, its convolution, convolutions, attention, one convolution for
upsampling. Each gives what the plain formula gives, up to rounding error.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .calls import DOUBLED, PLAIN, SINGLE, TYPES, channels_last
from .on_cpu import fits
from .operators import call

__all__ = [
    "DOUBLED",
    "PLAIN",
    "SINGLE",
    "convolution",
    "doubled_convolution",
    "fits",
    "fused_attention",
    "fused_group_norm",
    "norm_convolution",
    "serves",
]


def serves(x: Tensor) -> bool:
    """Whether the kernels take these pictures (N, C, H, W): on a CPU, in float32 or bfloat16."""
    return x.is_cpu and x.dtype in TYPES


def fused_group_norm(
    x: Tensor, gain: Tensor, bias: Tensor, groups: int, eps: float, offset: Tensor | None = None, silu: bool = True
) -> Tensor:
    """x (N, C, H, W) -> silu(norm(x + offset) gain + bias), or without the SiLU; gain, bias and offset (N, C) or (C,).

    norm takes mean and variance over each of the groups of channels and all places (Wu & He 2018), in float32. Two passes over memory
    forward and two backward; only x is kept for the backward pass.
    """
    y: Tensor = call("group_norm", channels_last(x), *rows_of(x, gain, bias, offset), groups, eps, silu)[0]
    return y


def rows_of(x: Tensor, *rows: Tensor | None) -> list[Tensor]:
    """Each as (N, C) float32; None is 0."""
    shape = x.shape[:2]
    return [
        x.new_zeros(shape, dtype=torch.float32) if v is None else v.float().expand(shape).contiguous() for v in rows
    ]


def norm_convolution(
    x: Tensor, gain: Tensor, bias: Tensor, groups: int, eps: float, offset: Tensor | None, weight: Tensor, shift: Tensor | None,
    added: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """x (N, C, H, W) -> the 3x3 convolution, weight (O, C, 3, 3) and shift (O,), of silu(norm(x + offset) gain + bias), in the type of x,
    plus `added` (N, O, H, W).

    The input of the convolution is computed inside it, and again in the backward pass, so that only x is kept: half the memory of both
    one after the other. The convolution uses Winograd's algorithm where it has channels enough.
    """
    added = None if added is None else channels_last(added.to(x.dtype))
    rows = rows_of(x, gain, bias, offset)
    y: Tensor = call("norm_convolution", channels_last(x), *rows, weight, shift, added, groups, eps)[0]
    return y


def convolution(
    x: Tensor, weight: Tensor, shift: Tensor | None, kind: int = PLAIN, added: Tensor | None = None
) -> Tensor:
    """x (N, C, H, W) -> the convolution of this kind (`calls.convolve`) of weight (O, C, taps, taps) and shift (O,), in the type of x,
    plus `added`, of the shape of the result. It pays for a weight that `fits`."""
    added = None if added is None else channels_last(added.to(x.dtype))
    y: Tensor = call("convolution", channels_last(x), weight, shift, added, kind)
    return y


def fused_attention(qkv: Tensor, heads: int) -> Tensor:
    """softmax(q k^T / sqrt(d)) v for qkv (N, 3 heads d, H, W), the channels of q, then those of k and v -> (N, heads d, H, W).

    Each place attends to all H W. The weights are computed again in the backward pass instead of being kept (Dao et al. 2022).
    """
    out: Tensor = call("attention", channels_last(qkv), heads)[0]
    return out


def doubled_convolution(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 3x3 convolution (O, I, 3, 3) of x (N, I, H, W) after nearest-neighbour doubling, as one transposed convolution.

    Each output pixel sees 2x2 pixels of x and not 3x3 copies of them: the kernel of 4x4 is the 3x3 one spread by 2x2 ones, and there
    are 16 products for each pixel of x instead of 36.
    """
    spread = F.pad(weight, (1, 1, 1, 1))
    kernel = spread[..., :-1, :-1] + spread[..., 1:, :-1] + spread[..., :-1, 1:] + spread[..., 1:, 1:]
    return F.conv_transpose2d(x, kernel.transpose(0, 1).flip(2, 3), bias, stride=2, padding=1)

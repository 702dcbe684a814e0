"""Faster ways to compute what the networks compute: fused group normalisation, attention by matrix products, one convolution for
upsampling. Each gives what the plain formula gives, up to rounding; which one runs is the caller's choice (`speed.py`).

The compiled parts are pointwise or sums over places, so that a compiler turns each into one pass over memory. They are compiled once
for all sizes and kept on the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_BYTES = 1 << 21  # of attention weights at a time: what stays in the caches
LARGEST_SCORE = 60.0  # of which the exponential and its reciprocal are far from the ends of float32 and bfloat16
PADDED = 8  # columns
RECOMPILE_LIMIT = (
    64  # of the compiler: precisions, activations, and batches or pictures of size 1 are variants of their own
)


@cache
def compiled(part: Callable[..., Any]) -> Callable[..., Any]:
    """The part of a computation compiled for any size, at its first use."""
    import torch._dynamo

    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, RECOMPILE_LIMIT)
    return torch.compile(part, dynamic=True)


def fused_group_norm(
    x: Tensor, gain: Tensor, bias: Tensor, groups: int, eps: float, offset: Tensor | None = None, silu: bool = True
) -> Tensor:
    """x (N, C, H, W) -> silu(norm(x + offset) gain + bias), or without the SiLU; gain, bias and offset (N, C) or (C,).

    norm takes mean and variance over each of the groups of channels and all places (Wu & He 2018). Two passes over memory forward and
    two backward; only x is kept for the way back. Statistics in float32.
    """
    n, c = x.shape[:2]
    offset = x.new_zeros(c) if offset is None else offset
    rows = [v.float().expand(n, c) for v in (gain, bias, offset)]
    return FusedGroupNorm.apply(x, *rows, groups, eps, silu)


class FusedGroupNorm(torch.autograd.Function):
    """y = act(A x + B), one A and B for each picture and channel."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gain: Tensor, bias: Tensor, offset: Tensor, groups: int, eps: float, silu: bool
    ) -> Tensor:
        """Statistics in one pass, the result in another."""
        scale, shift, *saved = compiled(norm_coefficients)(x, gain, bias, offset, groups, eps)
        ctx.save_for_backward(x, gain, scale, shift, *saved)
        ctx.groups, ctx.silu = groups, silu
        y: Tensor = compiled(affine)(x, scale, shift, silu)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Two sums over places in one pass, the gradient of x in another."""
        x, gain, scale, shift, *saved = ctx.saved_tensors
        sums = compiled(norm_gradients)(grads[0], x, gain, scale, shift, *saved, ctx.groups, ctx.silu)
        along_x, constant, *others = sums
        gx = compiled(norm_backward)(grads[0], x, scale, shift, along_x, constant, ctx.silu)
        return gx, *others, None, None, None


def norm_convolution(
    x: Tensor, gain: Tensor, bias: Tensor, groups: int, eps: float, offset: Tensor | None, weight: Tensor, shift: Tensor | None
) -> Tensor:  # fmt: skip
    """x (N, C, H, W) -> the 3x3 convolution, weight (O, C, 3, 3) and shift (O,), of silu(norm(x + offset) gain + bias), in the type of x.

    What is convolved is computed again on the way back, and the weights are rounded again, so that only x is kept: half the memory
    of both one after the other.
    """
    n, c = x.shape[:2]
    offset = x.new_zeros(c) if offset is None else offset
    rows = [v.float().expand(n, c) for v in (gain, bias, offset)]
    y: Tensor = NormConvolution.apply(x, *rows, weight, shift, groups, eps)
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
        factor, constant, *saved = compiled(norm_coefficients)(x, gain, bias, offset, groups, eps)
        ctx.save_for_backward(x, gain, factor, constant, weight, *saved)
        ctx.groups, ctx.with_shift = groups, shift is not None
        rounded = None if shift is None else shift.to(x.dtype)
        return F.conv2d(compiled(affine)(x, factor, constant, True), weight.to(x.dtype), rounded, padding=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The convolution's gradients, then those of the norm."""
        x, gain, factor, constant, weight, *saved = ctx.saved_tensors
        g, of_weight, of_shift = torch.ops.aten.convolution_backward(
            grads[0], compiled(affine)(x, factor, constant, True), weight.to(x.dtype), weight.shape[:1] if ctx.with_shift else None,
            [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True, *ctx.needs_input_grad[4:6]],
        )  # fmt: skip
        along_x, rest, *others = compiled(norm_gradients)(g, x, gain, factor, constant, *saved, ctx.groups, True)
        gx = compiled(norm_backward)(g, x, factor, constant, along_x, rest, True)
        parts = (None if part is None else part.to(weight.dtype) for part in (of_weight, of_shift))
        return gx, *others, *parts, None, None


def norm_coefficients(
    x: Tensor, gain: Tensor, bias: Tensor, offset: Tensor, groups: int, eps: float
) -> tuple[Tensor, ...]:
    """(A, B, deviation of each channel's mean from its group's, 1 / standard deviation): the norm of x + offset is A x + B.

    Sums are taken around the first pixel of each channel, so that a mean far from 0 costs no digits.
    """
    n, c, height, width = x.shape
    places, around = height * width, x[:, :, :1, :1].float()
    centred = x.float() - around
    first, second = centred.sum((2, 3)), centred.square().sum((2, 3))
    inside = second - first.square() / places  # sum of squares around the channel's own mean
    means = first / places + around[:, :, 0, 0] + offset
    group_means = means.view(n, groups, c // groups).mean(2, keepdim=True).expand(n, groups, c // groups).reshape(n, c)
    apart = means - group_means
    total = (inside + places * apart.square()).view(n, groups, c // groups).sum(2, keepdim=True)
    variance = total / (places * (c // groups))
    rate = torch.rsqrt(variance + eps).expand(n, groups, c // groups).reshape(n, c)
    scale = rate * gain
    return scale, bias + (offset - group_means) * scale, offset - group_means, apart, rate


def affine(x: Tensor, scale: Tensor, shift: Tensor, silu: bool) -> Tensor:
    """act(A x + B) in the precision of x."""
    z = x.float() * scale[:, :, None, None] + shift[:, :, None, None]
    return (F.silu(z) if silu else z).to(x.dtype)


def before_activation(g: Tensor, x: Tensor, scale: Tensor, shift: Tensor, silu: bool) -> Tensor:
    """The gradient at z = A x + B from that at act(z), float32."""
    if not silu:
        return g.float()
    z = x.float() * scale[:, :, None, None] + shift[:, :, None, None]
    s = torch.sigmoid(z)
    return g.float() * s * (1 + z * (1 - s))


def norm_gradients(
    g: Tensor, x: Tensor, gain: Tensor, scale: Tensor, shift: Tensor, back: Tensor, apart: Tensor, rate: Tensor, groups: int, silu: bool
) -> tuple[Tensor, ...]:  # fmt: skip
    """(P, Q, gradients of gain, bias and offset), each (N, C): the gradient of x is A g_z + P x + Q.

    With u = x + offset normalised to u_hat, m values a group and D_0, D_1 the sums over a group of gain g_z and gain g_z u_hat:
    dx = rate (gain g_z - D_0 / m - u_hat D_1 / m).
    """
    n, c, height, width = x.shape
    places = height * width
    at_z = before_activation(g, x, scale, shift, silu)
    s_0, s_1 = at_z.sum((2, 3)), (at_z * x.float()).sum((2, 3))
    of_gain = rate * (s_1 + back * s_0)

    def over_group(v: Tensor) -> Tensor:
        mean = v.view(n, groups, c // groups).sum(2, keepdim=True) / (places * (c // groups))
        return mean.expand(n, groups, c // groups).reshape(n, c)

    d_0, d_1 = over_group(gain * s_0), over_group(gain * of_gain)
    along_x = -rate.square() * d_1
    constant = -rate * d_0 + back * along_x
    of_offset = scale * s_0 - places * rate * d_0 + places * along_x * apart
    return along_x, constant, of_gain, s_0, of_offset


def norm_backward(
    g: Tensor, x: Tensor, scale: Tensor, shift: Tensor, along_x: Tensor, constant: Tensor, silu: bool
) -> Tensor:
    """A g_z + P x + Q."""
    at_z = before_activation(g, x, scale, shift, silu)
    gx = at_z * scale[:, :, None, None] + x.float() * along_x[:, :, None, None] + constant[:, :, None, None]
    return gx.to(x.dtype)


class MatrixAttention(torch.autograd.Function):
    """softmax(q k^T / sqrt(d)) v for q, k, v (N, heads, L, d), a few heads at a time, so that the weights stay in the cache.

    With E = exp(q k^T / sqrt(d)), the row sums l of E come out of the product that sums the values, E [v, 1]; so do the row sums on the
    way back, where E is computed again (Dao et al. 2022, algorithm 4, whose D is that below):

    out = E v / l,   D = sum over d of g out,   dv = E^T (g / l),   dS = E * ([g / l, -D / l] [v, 1]^T),   dq = dS k,   dk = dS^T q

    The mean of k over the places is taken off first. That changes no weight, as it adds the same to all scores of a row, nor dk, as the rows
    of dS sum to 0; but what all scores have in common would cost bfloat16 the digits of what they differ in.
    E has no largest value taken off, as scores are small; where they could be too large for that, E is the softmax itself and l = 1.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend."""
        d = q.shape[-1]
        q_rows, k_rows = (q * d**-0.5).flatten(0, 1).contiguous(), centred(k).flatten(0, 1).contiguous()
        v_rows = with_column(v.flatten(0, 1), 1.0)
        safe, sums = scores_are_small(q_rows, k_rows), torch.empty_like(v_rows)
        for part, (room,) in chunks(q_rows, k_rows, rooms=1):
            torch.bmm(exponentials(q_rows[part], k_rows[part], safe, room), v_rows[part], out=sums[part])
        total = sums[..., d : d + 1].float()
        out = (sums[..., :d] / total).to(q.dtype)
        ctx.save_for_backward(q_rows, k_rows, v_rows, out, total)
        ctx.safe, ctx.shape = safe, q.shape
        return out.view(q.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        """As above."""
        (q, k, v, out, total), d = ctx.saved_tensors, ctx.shape[-1]
        g = grads[0].flatten(0, 1).float()
        towards = (g / total).to(q.dtype)
        both = with_column(towards, (-(g * out).sum(-1, keepdim=True) / total).to(q.dtype))
        gq, gk, gv = (torch.empty_like(t) for t in (q, k, towards))
        for part, (room, other) in chunks(q, k, rooms=2):
            weights = exponentials(q[part], k[part], ctx.safe, room)
            torch.bmm(weights.transpose(1, 2), towards[part], out=gv[part])
            scores = torch.bmm(both[part], v[part].transpose(1, 2), out=other).mul_(weights)
            torch.bmm(scores, k[part], out=gq[part])
            torch.bmm(scores.transpose(1, 2), q[part], out=gk[part])
        return (gq * d**-0.5).view(ctx.shape), gk.view(ctx.shape), gv.view(ctx.shape)


def centred(k: Tensor) -> Tensor:
    """k (N, heads, L, d) less its mean over the places."""
    return (k.float() - k.mean(-2, keepdim=True, dtype=torch.float32)).to(k.dtype)


def with_column(rows: Tensor, column: Tensor | float) -> Tensor:
    """Rows (M, L, d) with one more column, and zeros up to a width that products like: (M, L, d + 8)."""
    wide = rows.new_zeros(*rows.shape[:2], rows.shape[2] + PADDED)
    wide[..., : rows.shape[2]] = rows
    wide[..., rows.shape[2] : rows.shape[2] + 1] = column
    return wide


def scores_are_small(q: Tensor, k: Tensor) -> bool:
    """Whether no q k^T can pass LARGEST_SCORE: |q k| <= |q| |k|."""
    longest_q, longest_k = (rows.float().square().sum(-1).amax().sqrt() for rows in (q, k))
    return bool(longest_q * longest_k <= LARGEST_SCORE)


def exponentials(q: Tensor, k: Tensor, safe: bool, room: Tensor) -> Tensor:
    """exp(q k^T) for rows (M, L, d), written into `room`; if not safe, with each row divided by its sum."""
    scores = torch.bmm(q, k.transpose(1, 2), out=room)
    return scores.exp_() if safe else torch.softmax(scores, -1)


def chunks(q: Tensor, k: Tensor, rooms: int) -> Iterator[tuple[slice, list[Tensor]]]:
    """Slices of the heads (M, L, d) whose attention weights fill about CHUNK_BYTES, each with so many rooms for them."""
    size = max(1, CHUNK_BYTES // (q.shape[1] * k.shape[1] * q.element_size()))
    buffers = [q.new_empty(min(size, len(q)), q.shape[1], k.shape[1]) for _ in range(rooms)]
    for start in range(0, len(q), size):
        yield slice(start, start + size), [buffer[: len(q) - start] for buffer in buffers]


def doubled_convolution(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 3x3 convolution (O, I, 3, 3) of x (N, I, H, W) after nearest-neighbour doubling, as one transposed convolution.

    Each output pixel sees 2x2 pixels of x and not 3x3 copies of them: the kernel of 4x4 is the 3x3 one spread by 2x2 ones, and there
    are 16 products for each pixel of x instead of 36.
    """
    spread = F.pad(weight, (1, 1, 1, 1))
    kernel = spread[..., :-1, :-1] + spread[..., 1:, :-1] + spread[..., :-1, 1:] + spread[..., 1:, 1:]
    return F.conv_transpose2d(x, kernel.transpose(0, 1).flip(2, 3), bias, stride=2, padding=1)

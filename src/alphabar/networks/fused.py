"""Faster ways to compute what the networks compute: fused group normalisation, attention by matrix products, one convolution for
upsampling. Each gives what the plain formula gives, up to rounding; which one runs is the caller's choice (`speed.py`).

The compiled parts are pointwise or sums over places, so that a compiler turns each into one pass over memory. They are compiled once
for all sizes and kept on the disk.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK_BYTES = 1 << 20  # of attention weights at a time: what stays in the cache of a core
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
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Two sums over places in one pass, the gradient of x in another."""
        x, gain, scale, shift, *saved = ctx.saved_tensors
        sums = compiled(norm_gradients)(grads[0], x, gain, scale, shift, *saved, ctx.groups, ctx.silu)
        along_x, constant, *others = sums
        gx = compiled(norm_backward)(grads[0], x, scale, shift, along_x, constant, ctx.silu)
        return gx, *others, None, None, None


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
    """softmax(q k^T / sqrt(d)) v for q, k, v (N, heads, L, d), a few pictures at a time, so that the weights stay in the cache.

    They are computed again on the way back instead of being kept.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend."""
        ctx.save_for_backward(q, k, v)
        out = torch.empty_like(v)
        for part in chunks(q, k):
            out[part] = attention_weights(q[part], k[part]) @ v[part]
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        """With W the weights: dv = W^T g, dW = g v^T, dS = W (dW - sum of W dW over a row), dq = dS k, dk = dS^T q."""
        (q, k, v), g = ctx.saved_tensors, grads[0]
        gq, gk, gv = (torch.empty_like(t) for t in (q, k, v))
        for part in chunks(q, k):
            weights = attention_weights(q[part], k[part])
            gv[part] = weights.transpose(-1, -2) @ g[part]
            scores = torch._softmax_backward_data(g[part] @ v[part].transpose(-1, -2), weights, -1, q.dtype)
            scores = scores * q.shape[-1] ** -0.5
            gq[part] = scores @ k[part]
            gk[part] = scores.transpose(-1, -2) @ q[part]
        return gq, gk, gv


def attention_weights(q: Tensor, k: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) over the keys."""
    return ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).softmax(-1)


def chunks(q: Tensor, k: Tensor) -> list[slice]:
    """Slices of the batch whose attention weights fill about CHUNK_BYTES."""
    one = q.shape[1] * q.shape[2] * k.shape[2] * q.element_size()
    size = max(1, CHUNK_BYTES // one)
    return [slice(start, start + size) for start in range(0, len(q), size)]


def doubled_convolution(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 3x3 convolution (O, I, 3, 3) of x (N, I, H, W) after nearest-neighbour doubling, as one transposed convolution.

    Each output pixel sees 2x2 pixels of x and not 3x3 copies of them: the kernel of 4x4 is the 3x3 one spread by 2x2 ones, and there
    are 16 products for each pixel of x instead of 36.
    """
    spread = F.pad(weight, (1, 1, 1, 1))
    kernel = spread[..., :-1, :-1] + spread[..., 1:, :-1] + spread[..., :-1, 1:] + spread[..., 1:, 1:]
    return F.conv_transpose2d(x, kernel.transpose(0, 1).flip(2, 3), bias, stride=2, padding=1)

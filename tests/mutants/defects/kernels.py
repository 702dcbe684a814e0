"""Defects of the compiled kernels and of the fused forms that call them.

Defects inside a kernel are seeded where it is called: in what goes in or in what comes out.
"""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import torch

from alphabar.kernels import native

from ..seeding import Defects

DEFECTS = Defects()
FUSED = "networks/test_fused.py"

# Norms


@DEFECTS.seed("fused norm forgets the offset", "norm_coefficients", FUSED, "group_norm")
def _(original: Any) -> Any:
    def norm_coefficients(x, gain, bias, offset, groups, eps):
        return original(x, gain, bias, torch.zeros_like(offset), groups, eps)

    return norm_coefficients


@DEFECTS.seed("fused norm without the spread of means", "norm_coefficients", FUSED, "group_norm")
def _(original: Any) -> Any:
    def norm_coefficients(x, gain, bias, offset, groups, eps):
        _, _, centred, apart, rate = original(x, gain, bias, offset, groups, eps)
        spread = apart.unflatten(1, (groups, -1)).square().mean(2, keepdim=True).expand(-1, -1, len(x[0]) // groups)
        rate = (rate**-2 - spread.flatten(1)).clamp(min=eps).rsqrt()
        return rate * gain, bias + centred * rate * gain, centred, apart, rate

    return norm_coefficients


@DEFECTS.seed("fused norm as if its variance were given", "norm_backward", FUSED, "group_norm")
def _(original: Any) -> Any:
    def norm_backward(g, x, scale, shift, along_x, constant, silu):
        return original(g, x, scale, shift, torch.zeros_like(along_x), constant, silu)

    return norm_backward


@DEFECTS.seed("slope of SiLU", "norm_backward", FUSED, "group_norm")
def _(original: Any) -> Any:
    def norm_backward(g, x, scale, shift, along_x, constant, silu):
        right = original(g, x, scale, shift, along_x, constant, silu)
        z = scale[:, :, None, None] * x + shift[:, :, None, None]
        s = z.sigmoid()
        excess = s * z * (2 * s - 1) if silu else 0.0  # s (1 + z s) - s (1 + z (1 - s))
        return (right + scale[:, :, None, None] * g * excess).to(right.dtype)

    return norm_backward


# Convolutions


@DEFECTS.seed(
    "what is convolved computed again without its activation", "plain_gradients", FUSED, "convolution_of_the_norm"
)
def _(original: Any) -> Any:
    affine = native.affine

    def plain_gradients(*given):
        with patch.object(native, "affine", lambda x, scale, shift, silu: affine(x, scale, shift, False)):
            return original(*given)

    return plain_gradients


@DEFECTS.seed(
    "Winograd's second row of outputs with the sign of the first", "convolved", FUSED, "convolution_of_the_norm"
)
def _(original: Any) -> Any:
    def convolved(x, weight, *given, **named):
        first, middle, third = weight.unbind(2)
        changed = torch.stack([first + 2 * third, middle, -third], 2)  # m_1 - m_2 + m_3, its m_3 being (d_1 - d_3) g_2
        y = original(x, weight, *given, **named)
        y[:, :, 1::2] = original(x, changed, *given, **named)[:, :, 1::2]
        return y

    return convolved


@DEFECTS.seed("Winograd forgets the second tile of a pair", "kernel_gradient", FUSED, "convolution_of_the_norm")
def _(original: Any) -> Any:
    def kernel_gradient(x, g, *given, **named):
        g = g.clone()
        g[..., 2::4] = g[..., 3::4] = 0
        return original(x, g, *given, **named)

    return kernel_gradient


@DEFECTS.seed("the kernel not turned on the way back", "packed", FUSED, "convolution_of_the_norm")
def _(original: Any) -> Any:
    def packed(weight, dtype, way=native.PLAIN, turned=False):
        return original(weight.transpose(0, 1) if turned else weight, dtype, way)

    return packed


@DEFECTS.seed(
    "a doubled picture's kernel without its middle on the way back", "transformed", FUSED, "all_its_gradients"
)
def _(original: Any) -> Any:
    def transformed(weight, dtype, way, turned):
        if way == native.HALVED:  # the transform's middle is the sum of the three taps
            weight = weight.detach().clone()
            weight[:, :, 1] = -weight[:, :, 0] - weight[:, :, 2]
            weight[..., 1] = -weight[..., 0] - weight[..., 2]
        return original(weight, dtype, way, turned)

    return transformed


@DEFECTS.seed("what is added to a convolution gets no gradient", "Convolution.backward", FUSED, "all_its_gradients")
def _(original: Any) -> Any:
    def backward(ctx, *grads):
        *others, of_added, way = original.__func__(ctx, *grads)
        return *others, None if of_added is None else torch.zeros_like(of_added), way

    return staticmethod(backward)


@DEFECTS.seed("doubling turned by 180 degrees", "doubled_convolution", FUSED, "doubled")
def _(original: Any) -> Any:
    return lambda x, weight, bias: original(x, weight.flip(2, 3), bias)


# Kept kernels


@DEFECTS.seed("kept kernels survive their weights", "packed", FUSED, "kept")
def _(original: Any) -> Any:
    def packed(weight, dtype, way=native.PLAIN, turned=False):
        _, kept = native.KEPT.get(weight, (None, None))
        return original(weight, dtype, way, turned) if kept is None or turned else kept

    return packed


@DEFECTS.seed("kept kernels of a weight that lies elsewhere now", "packed", FUSED, "kept_kernels")
def _(original: Any) -> Any:
    def packed(weight, dtype, way=native.PLAIN, turned=False):
        (version, *_), kept = native.KEPT.get(weight, ((None,), None))
        return original(weight, dtype, way, turned) if turned or version != weight._version else kept

    return packed


# Attention


@DEFECTS.seed("attention's scale left out on the way back", "attention_gradients", FUSED, "attention")
def _(original: Any) -> Any:
    def attention_gradients(g, qkv, out, lse):
        gradient, width = original(g, qkv, out, lse), out.shape[1]
        gradient[:, :width] *= (width // lse.shape[1]) ** 0.5  # that of the queries
        return gradient

    return attention_gradients


@DEFECTS.seed("attention's inner products left out on the way back", "attention_gradients", FUSED, "attention")
def _(original: Any) -> Any:
    return lambda g, qkv, out, lse: original(g, qkv, torch.zeros_like(out), lse)


@DEFECTS.seed("attention takes no largest score off", "attention", FUSED, "large_scores")
def _(original: Any) -> Any:
    def attention(qkv, heads):
        out, lse = original(qkv, heads)
        overflows = (lse > 88).repeat_interleave(out.shape[1] // heads, 1).view(out.shape)  # of exp in float32
        return out.masked_fill(overflows, torch.nan), lse

    return attention

"""Defects of the compiled kernels and of the fused forms that call them.

Defects inside a kernel are seeded where it is called: in what goes in or in what comes out.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any
from unittest.mock import patch

import torch

from alphabar.kernels import calls, packed
from alphabar.kernels.build import Build

from ..seeding import Defects

DEFECTS = Defects()
FUSED, LAYERS, WAYS = "kernels/test_fused.py", "engine/test_fused_layers.py", "engine/test_ways.py"
BUILD = "kernels/test_build.py"

# Norms


@DEFECTS.seed("fused norm forgets the offset", "norm_coefficients", FUSED, "group_norm")
def _(original: Any) -> Any:
    def norm_coefficients(x, gain, bias, offset, groups, eps):
        return original(x, gain, bias, torch.zeros_like(offset), groups, eps)

    return norm_coefficients


@DEFECTS.seed("fused norm without the spread of means", "norm_coefficients", FUSED, "group_norm")
def _(original: Any) -> Any:
    def norm_coefficients(x, gain, bias, offset, groups, eps):
        _, _, centred, apart, rate = original(x, gain, bias, offset, groups, eps).unbind()
        spread = apart.unflatten(1, (groups, -1)).square().mean(2, keepdim=True).expand(-1, -1, len(x[0]) // groups)
        rate = (rate**-2 - spread.flatten(1)).clamp(min=eps).rsqrt()
        return torch.stack([rate * gain, bias + centred * rate * gain, centred, apart, rate])

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
    "what is convolved computed again without its activation", "torch_gradients", FUSED, "convolution_of_the_norm"
)
def _(original: Any) -> Any:
    affine = calls.affine

    def torch_gradients(*given):
        with patch.object(calls, "affine", lambda x, scale, shift, silu: affine(x, scale, shift, False)):
            return original(*given)

    return torch_gradients


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
    def packed(weight, dtype, kind=calls.PLAIN, turned=False):
        return original(weight.transpose(0, 1) if turned else weight, dtype, kind)

    return packed


@DEFECTS.seed(
    "a doubled picture's kernel without its middle on the way back", "transformed", FUSED, "all_its_gradients"
)
def _(original: Any) -> Any:
    def transformed(weight, dtype, kind, turned):
        if kind == calls.HALVED:  # the transform's middle is the sum of the three taps
            weight = weight.detach().clone()
            weight[:, :, 1] = -weight[:, :, 0] - weight[:, :, 2]
            weight[..., 1] = -weight[..., 0] - weight[..., 2]
        return original(weight, dtype, kind, turned)

    return transformed


@DEFECTS.seed(
    "what is added to a convolution gets no gradient", "ConvolutionFunction.backward", FUSED, "all_its_gradients"
)
def _(original: Any) -> Any:
    def backward(ctx, *grads):
        *others, of_added, kind = original.__func__(ctx, *grads)
        return *others, None if of_added is None else torch.zeros_like(of_added), kind

    return staticmethod(backward)


@DEFECTS.seed("doubling turned by 180 degrees", "doubled_convolution", FUSED, "doubled")
def _(original: Any) -> Any:
    return lambda x, weight, bias: original(x, weight.flip(2, 3), bias)


# Kept kernels


@DEFECTS.seed("kept kernels survive their weights", "packed_weight", FUSED, "kept")
def _(original: Any) -> Any:
    def packed_weight(weight, form, transform):
        _, kept = packed.KEPT.get(weight, {}).get(form, (None, None))
        return original(weight, form, transform) if kept is None else kept

    return packed_weight


@DEFECTS.seed("kept kernels of a weight that lies elsewhere now", "packed_weight", FUSED, "kept_kernels")
def _(original: Any) -> Any:
    def packed_weight(weight, form, transform):
        (version, *_), kept = packed.KEPT.get(weight, {}).get(form, ((None,), None))
        return original(weight, form, transform) if version != weight._version else kept

    return packed_weight


@DEFECTS.seed("one kept kernel for both precisions", "packed_weight", FUSED, "two_threads")
def _(original: Any) -> Any:
    return lambda weight, form, transform: original(weight, None, transform)


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


# Operators and layers


@DEFECTS.seed("a second derivative of 0", "NoSecondDerivative.backward", FUSED, "second_derivative")
def _(original: Any) -> Any:
    return staticmethod(lambda ctx, *grads: (None,) * 16)


@DEFECTS.seed("fake results in another order of memory", "fake_pictures", FUSED, "registered")
def _(original: Any) -> Any:
    return lambda *given: original(*given).contiguous()


@DEFECTS.seed("hooks of skipped children are not called", "is_plain", LAYERS, "hooks or customised")
def _(original: Any) -> Any:
    return lambda module, kind: type(module) is kind


@DEFECTS.seed("subclasses of layers count as plain", "is_plain", LAYERS, "customised or layout")
def _(original: Any) -> Any:
    return lambda module, kind: isinstance(module, kind)


@DEFECTS.seed("any convolution counts as 3x3 of stride 1", "is_plain_convolution", LAYERS, "layout")
def _(original: Any) -> Any:
    return lambda conv, size: type(conv) is torch.nn.Conv2d


# Ways


@DEFECTS.seed("accelerating changes the network itself", "view", WAYS, "stays_as_it_is or two_threads")
def _(original: Any) -> Any:
    def view(module, layers, rounded, known):
        for part in module.modules():
            part.__class__ = layers.get(type(part), type(part))
        return module

    return view


@DEFECTS.seed("an accelerated module with weights of its own", "view", WAYS, "those_of_the_network or seen")
def _(original: Any) -> Any:
    return lambda module, *others: deepcopy(original(module, *others))


@DEFECTS.seed("rounded in place", "round_to", WAYS, "rounded")
def _(original: Any) -> Any:
    def round_to(parameter, dtype):
        parameter.data = parameter.data.to(dtype)
        return parameter

    return round_to


@DEFECTS.seed("accelerating twice wraps twice", "original", WAYS, "twice")
def _(original: Any) -> Any:
    return lambda network: network


# Builds


@DEFECTS.seed("a damaged library is loaded", "read_build", BUILD, "damaged")
def _(original: Any) -> Any:
    def read_build(path):
        return original(path) or (Build("", "", ()) if path.is_file() else None)

    return read_build


@DEFECTS.seed("a foreign library is loaded", "check_private", BUILD, "refused")
def _(original: Any) -> Any:
    return lambda path: None

"""The fast forms give what the plain formulas give, outputs and gradients, in the rounding of their precision."""

from __future__ import annotations

import copy
import ctypes
import math
import platform
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from alphabar.kernels import fused, native
from alphabar.networks.cond import Cond, Doors
from alphabar.networks.layers import Attention, GroupNorm, Pointwise, Upsample
from alphabar.networks.unet import UNet
from alphabar.settings.networks import UNetSettings

PRECISION = {torch.float32: 2e-6, torch.bfloat16: 8e-3}


def relative(a, b):
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).abs().max() / b.abs().max())


def use_fused(module, on):
    for part in module.modules():
        if isinstance(part, GroupNorm | Attention | Upsample | Pointwise):
            part.fused = on


def leaf(*shape, mean=0.0, dtype=torch.float32, seed=0):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) + mean
    x = x.to(dtype)
    return (x.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else x).requires_grad_()


@cache
def built_for(target: str) -> ctypes.CDLL:
    """The kernels for another processor."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "TARGETS", ([target, "-fopenmp"],))
        return native.load()


@pytest.fixture(params=["-march=native", "-march=x86-64", "-march=haswell"])
def processor(request, monkeypatch):
    """The kernels built for this processor, and for older ones, which take other widths and no products of bfloat16."""
    if request.param != "-march=native":
        if platform.machine() != "x86_64":
            pytest.skip("another kind of processor")
        if request.param == "-march=haswell" and "avx2" not in Path("/proc/cpuinfo").read_text():
            pytest.skip("an older processor")
        older = built_for(request.param)
        monkeypatch.setattr(native, "library", lambda: older)
    return request.param


@pytest.mark.parametrize("dtype", PRECISION)
@pytest.mark.parametrize("silu", [True, False])
def test_fused_group_norm_is_group_norm_with_its_gradients(processor, dtype, silu):
    """Against torch's own in float64; gain, bias and offset by picture and channel."""
    x = leaf(5, 24, 7, 6, mean=3.0, dtype=dtype)
    gain, bias, offset = (leaf(5, 24, seed=i) for i in (1, 2, 3))
    y = fused.fused_group_norm(x, gain, bias, 8, 1e-5, offset, silu)
    assert y.dtype == dtype
    shifted = x.double() + offset.double()[:, :, None, None]
    plain = F.group_norm(shifted, 8, eps=1e-5) * gain[:, :, None, None] + bias[:, :, None, None]
    plain = F.silu(plain) if silu else plain
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(9)).to(dtype)
    inputs = (x, gain, bias, offset)
    found, expected = torch.autograd.grad(y, inputs, g), torch.autograd.grad(plain, inputs, g.double())
    assert relative(y, plain) < PRECISION[dtype]
    for name, a, b in zip(("x", "gain", "bias", "offset"), found, expected, strict=True):
        assert relative(a, b) < PRECISION[dtype], name


def test_a_mean_far_from_zero_costs_no_digits():
    x = leaf(2, 8, 16, 16, mean=1000.0).detach()
    ones, zeros = torch.ones(8), torch.zeros(8)
    plain = F.group_norm(x.double(), 2, eps=1e-5)
    assert relative(fused.fused_group_norm(x, ones, zeros, 2, 1e-5, silu=False), plain) < 3e-4  # of x itself 6e-5


@pytest.mark.parametrize("dtype", PRECISION)
@pytest.mark.parametrize("with_shift", [True, False])
@pytest.mark.parametrize(("channels", "outputs"), [(8, 5), (24, 36)])  # torch's convolution, and Winograd's
def test_a_convolution_of_the_norm_is_both_one_after_the_other(dtype, with_shift, channels, outputs):
    """Against torch's own in float64; weights in float32, rounded to the precision of x on both ways."""
    x = leaf(3, channels, 7, 6, mean=2.0, dtype=dtype)
    gain, bias, offset = (leaf(3, channels, seed=i) for i in (1, 2, 3))
    weight, shift = leaf(outputs, channels, 3, 3, seed=4), leaf(outputs, seed=5) if with_shift else None
    y = fused.norm_convolution(x, gain, bias, 4, 1e-5, offset, weight, shift)
    assert y.dtype == dtype
    normed = F.group_norm(x.double() + offset.double()[:, :, None, None], 4, eps=1e-5)
    normed = F.silu(normed * gain[:, :, None, None] + bias[:, :, None, None])
    plain = F.conv2d(normed, weight.double(), None if shift is None else shift.double(), padding=1)
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(9)).to(dtype)
    inputs = [x, gain, bias, offset, weight, *([] if shift is None else [shift])]
    found, expected = torch.autograd.grad(y, inputs, g), torch.autograd.grad(plain, inputs, g.double())
    assert relative(y, plain) < 2 * PRECISION[dtype]
    for one, a, b in zip(inputs, found, expected, strict=True):
        assert a.dtype == one.dtype
        assert relative(a, b) < 2 * PRECISION[dtype]


WAYS = {native.PLAIN: 3, native.DOUBLED: 3, native.SINGLE: 1}  # the taps of each


@pytest.mark.parametrize("dtype", PRECISION)
@pytest.mark.parametrize("way", WAYS)
def test_the_kernels_convolve_on_every_processor_and_for_every_size(processor, dtype, way):
    """Odd and even sizes, a row alone, channels that fill no vector, more tiles than a block or chunk holds, one thread and two."""
    sizes = [(2, 16, 16, 4, 4), (3, 24, 40, 7, 5), (2, 20, 17, 1, 3), (1, 33, 70, 16, 30), (9, 48, 96, 14, 14)]
    threads = torch.get_num_threads()
    for i, (n, channels, outputs, height, width) in enumerate(sizes):
        torch.set_num_threads(1 + i % 2)
        x, factor, constant = (
            leaf(n, channels, height, width, dtype=dtype),
            leaf(n, channels),
            leaf(n, channels, seed=1),
        )
        weight, bias = leaf(outputs, channels, WAYS[way], WAYS[way], seed=2), leaf(outputs, seed=3)
        prepared = F.silu(x.double() * factor.double()[:, :, None, None] + constant.double()[:, :, None, None])
        prepared = prepared.detach().requires_grad_()
        exact = weight.detach().double().requires_grad_()
        grown = F.interpolate(prepared, scale_factor=2, mode="nearest") if way == native.DOUBLED else prepared
        plain = F.conv2d(grown, exact, bias.double(), padding=WAYS[way] // 2)
        g, added = (leaf(*plain.shape, dtype=dtype, seed=seed).detach() for seed in (4, 5))
        with torch.no_grad():
            kernel = native.packed(weight, dtype, way)
            y = native.convolve(native.last(x), kernel, outputs, bias, factor, constant, added, way)
            back = native.TURNED[way]
            of_input = native.convolve(g, native.packed(weight, dtype, back, turned=True), channels, way=back)
            of_weight = native.kernel_gradient(x, g, factor, constant, way)
        expected = torch.autograd.grad(plain, (prepared, exact), g.double())
        for a, b in zip((y, of_input, of_weight), (plain + added, *expected), strict=True):
            assert relative(a, b) < 2 * PRECISION[dtype], (n, channels, outputs, height, width)
    torch.set_num_threads(threads)


def test_the_gradient_of_a_kernel_too_large_for_a_share_for_each_thread_is_the_same():
    """The sums of a kernel of 512 by 512 channels are 16 MiB: 256 MiB hold 16 of them."""
    x, g, threads = leaf(1, 512, 40, 2).detach(), leaf(1, 512, 40, 2, seed=1).detach(), torch.get_num_threads()
    found = []
    for count in (1, 20):
        torch.set_num_threads(count)
        found.append(native.kernel_gradient(x, g))
    torch.set_num_threads(threads)
    assert relative(*found) < PRECISION[torch.float32]


@pytest.mark.parametrize("dtype", PRECISION)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("with_shift", [True, False])
def test_a_convolution_by_the_kernels_has_all_its_gradients(dtype, way, with_shift):
    """Against torch's own in float64: of the picture, the weight, the shift and what is added."""
    x, weight = leaf(2, 16, 5, 6, dtype=dtype), leaf(20, 16, WAYS[way], WAYS[way], seed=1)
    shift = leaf(20, seed=2) if with_shift else None
    grown = F.interpolate(x.double(), scale_factor=2, mode="nearest") if way == native.DOUBLED else x.double()
    plain = F.conv2d(grown, weight.double(), None if shift is None else shift.double(), padding=WAYS[way] // 2)
    added = leaf(*plain.shape, dtype=dtype, seed=3)
    plain = plain + added
    g = torch.randn(plain.shape, generator=torch.Generator().manual_seed(9)).to(dtype)
    inputs = [v for v in (x, weight, shift, added) if v is not None]
    y = fused.convolution(x, weight, shift, way, added)
    assert y.dtype == dtype
    assert relative(y, plain) < 2 * PRECISION[dtype]
    found, expected = torch.autograd.grad(y, inputs, g), torch.autograd.grad(plain, inputs, g.double())
    for a, b in zip(found, expected, strict=True):
        assert relative(a, b) < 2 * PRECISION[dtype]


@pytest.mark.parametrize("channels", [8, 16])  # torch's convolution, and the kernels'
def test_layers_are_the_same_either_way(channels):
    """Upsampling, and a shortcut of 1x1."""
    x = leaf(2, channels, 6, 5)
    for layer, told in ((Upsample(channels), [torch.Size((12, 10))]), (Pointwise(channels, 2 * channels), [])):
        results = []
        for on in (False, True):
            use_fused(layer, on)
            y = layer(x, *told)
            results.append((y, *torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])))
        for plain, fast in zip(*results, strict=True):
            assert relative(fast, plain) < 5e-6


def test_what_is_not_finite_stays_so():
    """So that a training stops at it."""
    for dtype in PRECISION:
        x, weight = leaf(1, 16, 6, 6, dtype=dtype).detach(), leaf(16, 16, 3, 3, seed=1).detach()
        x[0, 3, 2, 2] = float("nan")
        ones, zeros = torch.ones(16), torch.zeros(16)
        assert fused.fused_group_norm(x, ones, zeros, 16, 1e-5)[0, 3].isnan().all()
        y = native.convolve(native.last(x), native.packed(weight, dtype), 16)
        assert y[0, :, 1:4, 1:4].isnan().all()


@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1,), (4, 0, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_allocated_starts_at_a_line_of_the_cache_and_outlives_its_first_name(shape, dtype):
    """Of the shape and type asked for; a view keeps the memory."""
    tensors = [native.allocated(shape, dtype) for _ in range(9)]
    views = [tensor.flatten()[1:] for tensor in tensors]
    for i, tensor in enumerate(tensors):
        assert (tensor.shape, tensor.dtype, tensor.is_contiguous()) == (shape, dtype, True)
        assert tensor.numel() == 0 or tensor.data_ptr() % 64 == 0
        tensor.fill_(i)
    del tensors, tensor
    for i, view in enumerate(views):
        assert (view == i).all()


@pytest.mark.parametrize("shape", [(0, 16, 4, 4), (2, 16, 0, 4), (2, 16, 4, 0)])
@pytest.mark.parametrize("way", [native.PLAIN, native.DOUBLED, native.SINGLE])
def test_of_no_pictures_or_places_nothing_is_convolved_and_the_gradient_is_zero(shape, way):
    taps = 1 if way == native.SINGLE else 3
    x, weight = torch.randn(shape), torch.randn(16, 16, taps, taps, requires_grad=True)
    y = fused.convolution(x, weight, None, way)
    assert y.numel() == 0
    y.sum().backward()
    assert weight.grad is not None
    assert not weight.grad.any()


@pytest.mark.parametrize("inside", [True, False])
def test_the_kernels_serve_in_inference_mode(inside):
    layer = Attention(32, 8, 4, 1e-5)
    x = torch.randn(1, 32, 4, 4)
    expected = layer(x)
    layer.fused = True
    with torch.inference_mode():
        found = layer(x.clone() if inside else x)
    assert torch.allclose(found, expected, atol=1e-5)


def test_shapes_that_do_not_fit_are_refused_as_torch_refuses_them():
    x, weight = torch.randn(2, 32, 4, 4), torch.randn(16, 32, 3, 3)
    with pytest.raises(RuntimeError, match=r"a weight of shape \(O, 32, 3, 3\) is needed"):
        fused.convolution(x, weight[:, :16], None)
    with pytest.raises(RuntimeError, match=r"a weight of shape \(O, 32, 1, 1\) is needed"):
        fused.convolution(x, weight, None, native.SINGLE)
    for wrong in ((1, 16, 1, 1), (2, 16, 8, 8)):
        with pytest.raises(RuntimeError, match="what is added must have the shape of the result"):
            fused.convolution(x, weight, None, added=torch.randn(wrong))


def test_a_kept_kernel_follows_its_weight():
    x, weight = leaf(1, 16, 6, 6).detach(), leaf(16, 16, 3, 3, seed=1).detach()
    first = native.convolve(x, native.packed(weight, x.dtype), 16)
    assert native.packed(weight, x.dtype) is native.packed(weight, x.dtype)
    weight.mul_(2)
    second = native.convolve(x, native.packed(weight, x.dtype), 16)
    torch.testing.assert_close(second, 2 * first)


def test_kept_kernels_are_made_anew_when_a_weight_lies_elsewhere_or_when_they_are_forgotten():
    x, weight = leaf(2, 16, 6, 6).detach(), leaf(16, 16, 3, 3).detach()
    first = native.packed(weight, x.dtype)
    weight.data = weight.data.double()
    assert native.packed(weight, x.dtype) is not first
    second = native.packed(weight, x.dtype)
    weight.data.mul_(2)  # counts no version
    native.forget_kept()
    torch.testing.assert_close(native.packed(weight, x.dtype), 2 * second)


@pytest.fixture
def loaded_anew():
    """The kernels are looked for again, in the test and after it."""
    native.load_once.cache_clear()
    yield
    native.load_once.cache_clear()


@pytest.mark.usefixtures("loaded_anew")
@pytest.mark.parametrize("compiler", ["none", "broken"])
def test_without_a_compiler_that_works_the_reason_is_told(monkeypatch, tmp_path, compiler):
    monkeypatch.setenv("ALPHABAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(native, "COMPILERS", ())
    if compiler == "broken":
        script = tmp_path / "c++"
        script.write_text("#!/bin/sh\necho no such thing >&2\nexit 1\n")
        script.chmod(0o755)
        monkeypatch.setenv("CXX", str(script))
    else:
        monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(native.Unavailable, match="no C\\+\\+ compiler" if compiler == "none" else "no such thing"):
        native.library()
    assert not list((tmp_path / "cache").rglob("*.so"))
    monkeypatch.setattr(native, "find_compiler", lambda: pytest.fail("asked again"))
    with pytest.raises(native.Unavailable):
        native.library()


@pytest.mark.parametrize("dtype", PRECISION)
@pytest.mark.parametrize("channels", [5, 16, 24, 64, 96])  # less than a vector, whole ones, whole pieces, both
def test_channels_are_summed_over_pictures_and_places(dtype, channels):
    x = leaf(3, channels, 7, 5, dtype=dtype).detach()
    torch.testing.assert_close(native.channel_sums(x), x.float().sum((0, 2, 3)), rtol=1e-5, atol=1e-4)


def test_a_frozen_convolution_passes_the_same_gradient_on():
    x, weight, shift = leaf(2, 8, 4, 4), leaf(8, 8, 3, 3, seed=1), leaf(8, seed=2)
    passed = []
    for w, b in ((weight, shift), (weight.detach(), shift.detach())):
        y = fused.norm_convolution(x, torch.ones(8), torch.zeros(8), 2, 1e-5, None, w, b)
        passed += torch.autograd.grad(y.square().sum(), x)
    assert relative(*passed) < 1e-6


def test_a_second_derivative_is_refused_and_not_wrong():
    x, ones, zeros, weight = leaf(2, 8, 4, 4), torch.ones(8), torch.zeros(8), leaf(8, 8, 3, 3, seed=1)
    for y in (
        fused.fused_group_norm(x, ones, zeros, 2, 1e-5),
        fused.norm_convolution(x, ones, zeros, 2, 1e-5, None, weight, None),
    ):
        (gradient,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        with pytest.raises(RuntimeError):
            torch.autograd.grad(gradient.square().sum(), x)


def test_of_norm_and_convolution_only_x_is_kept():
    norm, conv, x, kept = GroupNorm(4, 16), torch.nn.Conv2d(16, 16, 3, padding=1), leaf(2, 16, 32, 32), set[int]()
    use_fused(norm, True)

    def keep(tensor):
        if tensor.numel() >= x.numel():
            kept.add(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        norm.convolved(conv, x)
    assert kept == {x.data_ptr()}


@pytest.mark.parametrize("way", ["plain", "offset", "scale and shift"])
@pytest.mark.parametrize("outputs", [6, 18])  # torch's convolution, and the kernels'
def test_the_module_convolves_the_same_either_way(way, outputs):
    norm, conv = GroupNorm(4, 16), torch.nn.Conv2d(16, outputs, 3, padding=1)
    x, a, b = leaf(3, 16, 5, 5), leaf(3, 16, seed=4), leaf(3, 16, seed=5)
    given = {"plain": {}, "offset": {"offset": a}, "scale and shift": {"scale": a, "shift": b}}[way]
    given["added"] = leaf(3, outputs, 5, 5, seed=6)
    inputs = [x, *norm.parameters(), *conv.parameters(), *given.values()]
    results = []
    for on in (False, True):
        use_fused(norm, on)
        y = norm.convolved(conv, x, **given)
        results.append((y, *torch.autograd.grad(y.square().sum(), inputs)))
    for plain, fast in zip(*results, strict=True):
        assert relative(fast, plain) < 5e-6


@pytest.mark.parametrize("way", ["plain", "offset", "scale and shift"])
@pytest.mark.parametrize("silu", [True, False])
def test_the_module_is_the_same_either_way(way, silu):
    norm = GroupNorm(4, 16)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(16, generator=torch.Generator().manual_seed(1)))
        norm.bias.copy_(torch.randn(16, generator=torch.Generator().manual_seed(2)))
    x, a, b = leaf(3, 16, 5, 5), leaf(3, 16, seed=4), leaf(3, 16, seed=5)
    given = {"plain": {}, "offset": {"offset": a}, "scale and shift": {"scale": a, "shift": b}}[way]
    results = []
    for on in (False, True):
        use_fused(norm, on)
        y = norm(x, silu=silu, **given)
        results.append((y, *torch.autograd.grad(y.square().sum(), [x, norm.weight, norm.bias, *given.values()])))
    for plain, fast in zip(*results, strict=True):
        assert relative(fast, plain) < 5e-6


def plain_attention(qkv, heads):
    """Attention of qkv (N, 3 heads d, H, W) as torch has it."""
    n, channels, height, width = qkv.shape
    q, k, v = qkv.flatten(2).transpose(1, 2).view(n, height * width, 3, heads, -1).permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(n, channels // 3, height, width)


def attended(qkv, heads, *, exactly=False):
    """The result and the gradient, by the kernel, or by torch in double precision."""
    given = (qkv.double() if exactly else qkv).detach().requires_grad_()
    y = plain_attention(given, heads) if exactly else fused.FusedAttention.apply(given, heads)
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(9)).to(qkv.dtype).to(y.dtype)
    return y, *torch.autograd.grad(y, given, g)


# Heads of odd widths, of less than a vector, of several panels; places that fill no pair, no vector, several panels.
SHAPES = [
    (5, 2, 3, 3, 4),
    (1, 1, 1, 1, 8),
    (3, 1, 5, 8, 16),
    (2, 3, 14, 14, 8),
    (2, 2, 1, 5, 3),
    (1, 2, 9, 9, 40),
    (1, 1, 6, 6, 80),
]


@pytest.mark.parametrize("dtype", PRECISION)
@pytest.mark.parametrize(("n", "heads", "height", "width", "d"), SHAPES)
def test_fused_attention_is_attention(processor, dtype, n, heads, height, width, d):
    qkv = leaf(n, 3 * heads * d, height, width, dtype=dtype)
    for found, expected in zip(attended(qkv, heads), attended(qkv, heads, exactly=True), strict=True):
        assert relative(found, expected) < PRECISION[dtype]


@pytest.mark.parametrize("offset", [20.0, 40.0])
def test_attention_in_bfloat16_keeps_its_digits_where_all_scores_have_much_in_common(offset):
    """q and k with a common part: the scores are large, what they differ in is small, as training makes them."""
    qkv = leaf(2, 48, 8, 8).detach()
    common = (offset / 8) ** 0.5 * 8**0.25
    qkv = torch.cat([qkv[:, :32] / 4 + common, qkv[:, 32:]], 1).to(torch.bfloat16)
    (y, g), (plain, of_plain) = attended(qkv, 2), attended(qkv, 2, exactly=True)
    assert relative(y, plain) < 0.005
    assert relative(g, of_plain) < 0.01


@pytest.mark.parametrize("dtype", PRECISION)
def test_attention_of_large_scores_stays_finite(dtype):
    qkv = (100 * leaf(2, 48, 1, 5)).detach().to(dtype)
    (y, g), (plain, _) = attended(qkv, 2), attended(qkv, 2, exactly=True)
    assert y.isfinite().all()
    assert g.isfinite().all()
    assert relative(y, plain) < 2 * PRECISION[dtype]


def test_a_number_that_is_none_shows_in_the_result_of_attention():
    qkv = leaf(1, 24, 4, 4).detach()
    qkv[0, 3, 2, 2] = math.nan
    assert fused.FusedAttention.apply(qkv, 1).isnan().any()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5), (8, 8)])
def test_a_doubled_convolution_is_doubling_and_convolution(height, width):
    x, weight, bias = leaf(2, 6, height, width), leaf(4, 6, 3, 3, seed=1), leaf(4, seed=2)
    fast = fused.doubled_convolution(x, weight, bias)
    plain = F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), weight, bias, padding=1)
    torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-5)
    g = torch.randn_like(plain)
    for a, b in zip(*(torch.autograd.grad(y, (x, weight, bias), g) for y in (fast, plain)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)


def test_upsampling_to_an_odd_size_goes_the_plain_way():
    layer, x = Upsample(4), leaf(1, 4, 3, 3)
    plain = layer.conv(F.interpolate(x, size=(5, 6), mode="nearest"))
    torch.testing.assert_close(layer(x, torch.Size((5, 6))), plain)


@pytest.mark.parametrize("time_mode", ["add", "scale_shift"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_whole_network_agrees(time_mode, precision):
    """With modulation and tokens too; bfloat16 as near to float32 as the plain way is."""
    settings = UNetSettings(channels=[8, 16], attention=[False, True], groups=4, head_channels=8, time_mode=time_mode, token_dim=8)  # fmt: skip
    torch.manual_seed(0)
    net = UNet(settings, 3, 3, Doors(tokens=True, modulation=5)).to(memory_format=torch.channels_last)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    cond = Cond(
        vector=leaf(4, net.vector_dim).detach(), tokens=leaf(4, 6, 8).detach(), modulation=leaf(4, 5, 8, 8).detach()
    )
    x, time = leaf(4, 3, 8, 8), torch.tensor([1.0, 200.0, 500.0, 900.0])

    def run(on, low):
        other = copy.deepcopy(net)
        use_fused(other, on)
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            y = other(x, time, cond)
        y.float().square().mean().backward()
        return y.detach().float(), torch.cat([p.grad.flatten() for p in other.parameters() if p.grad is not None])

    exact, fast = run(False, False), run(True, precision == "bfloat16")
    limits = (1e-5, 1e-5) if precision == "float32" else (0.03, 0.05)
    for a, b, limit in zip(fast, exact, limits, strict=True):
        assert float((a - b).norm() / b.norm()) < limit

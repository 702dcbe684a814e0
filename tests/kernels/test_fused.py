"""The fast forms give what the plain formulas give, outputs and gradients, in the rounding of their precision."""

from __future__ import annotations

import ctypes
import math
import platform
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from alphabar.kernels import build, calls, fused, library, operators, packed

PRECISION = {torch.float32: 2e-6, torch.bfloat16: 8e-3}


def relative(a, b):
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).abs().max() / b.abs().max())


def leaf(*shape, mean=0.0, dtype=torch.float32, seed=0):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) + mean
    x = x.to(dtype)
    return (x.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else x).requires_grad_()


@cache
def built_for(target: str) -> ctypes.CDLL:
    """The kernels for another processor."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "TARGETS", ((target, "-fopenmp"),))
        return library.load().functions


@pytest.fixture(params=["-march=native", "-march=x86-64", "-march=haswell"])
def processor(request, monkeypatch):
    """The kernels built for this processor, and for older ones, which take other widths and no products of bfloat16."""
    if request.param != "-march=native":
        if platform.machine() != "x86_64":
            pytest.skip("another kind of processor")
        if request.param == "-march=haswell" and "avx2" not in Path("/proc/cpuinfo").read_text():
            pytest.skip("an older processor")
        older = built_for(request.param)
        monkeypatch.setattr(calls, "library", lambda: older)
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


TAPS = {calls.PLAIN: 3, calls.DOUBLED: 3, calls.SINGLE: 1}  # the taps of each kind


@pytest.mark.parametrize("dtype", PRECISION)
@pytest.mark.parametrize("kind", TAPS)
def test_the_kernels_convolve_on_every_processor_and_for_every_size(processor, dtype, kind):
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
        weight, bias = leaf(outputs, channels, TAPS[kind], TAPS[kind], seed=2), leaf(outputs, seed=3)
        prepared = F.silu(x.double() * factor.double()[:, :, None, None] + constant.double()[:, :, None, None])
        prepared = prepared.detach().requires_grad_()
        exact = weight.detach().double().requires_grad_()
        grown = F.interpolate(prepared, scale_factor=2, mode="nearest") if kind == calls.DOUBLED else prepared
        plain = F.conv2d(grown, exact, bias.double(), padding=TAPS[kind] // 2)
        g, added = (leaf(*plain.shape, dtype=dtype, seed=seed).detach() for seed in (4, 5))
        with torch.no_grad():
            kernel = calls.packed(weight, dtype, kind)
            y = calls.convolve(calls.channels_last(x), kernel, outputs, bias, factor, constant, added, kind)
            back = calls.BACKWARD_KIND[kind]
            of_input = calls.convolve(g, calls.packed(weight, dtype, back, turned=True), channels, kind=back)
            of_weight = calls.kernel_gradient(x, g, factor, constant, kind)
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
        found.append(calls.kernel_gradient(x, g))
    torch.set_num_threads(threads)
    assert relative(*found) < PRECISION[torch.float32]


@pytest.mark.parametrize("dtype", PRECISION)
@pytest.mark.parametrize("kind", TAPS)
@pytest.mark.parametrize("with_shift", [True, False])
def test_a_convolution_by_the_kernels_has_all_its_gradients(dtype, kind, with_shift):
    """Against torch's own in float64: of the picture, the weight, the shift and what is added."""
    x, weight = leaf(2, 16, 5, 6, dtype=dtype), leaf(20, 16, TAPS[kind], TAPS[kind], seed=1)
    shift = leaf(20, seed=2) if with_shift else None
    grown = F.interpolate(x.double(), scale_factor=2, mode="nearest") if kind == calls.DOUBLED else x.double()
    plain = F.conv2d(grown, weight.double(), None if shift is None else shift.double(), padding=TAPS[kind] // 2)
    added = leaf(*plain.shape, dtype=dtype, seed=3)
    plain = plain + added
    g = torch.randn(plain.shape, generator=torch.Generator().manual_seed(9)).to(dtype)
    inputs = [v for v in (x, weight, shift, added) if v is not None]
    y = fused.convolution(x, weight, shift, kind, added)
    assert y.dtype == dtype
    assert relative(y, plain) < 2 * PRECISION[dtype]
    found, expected = torch.autograd.grad(y, inputs, g), torch.autograd.grad(plain, inputs, g.double())
    for a, b in zip(found, expected, strict=True):
        assert relative(a, b) < 2 * PRECISION[dtype]


def test_what_is_not_finite_stays_so():
    """So that a training stops at it."""
    for dtype in PRECISION:
        x, weight = leaf(1, 16, 6, 6, dtype=dtype).detach(), leaf(16, 16, 3, 3, seed=1).detach()
        x[0, 3, 2, 2] = float("nan")
        ones, zeros = torch.ones(16), torch.zeros(16)
        assert fused.fused_group_norm(x, ones, zeros, 16, 1e-5)[0, 3].isnan().all()
        y = calls.convolve(calls.channels_last(x), calls.packed(weight, dtype), 16)
        assert y[0, :, 1:4, 1:4].isnan().all()


@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1,), (4, 0, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_allocated_starts_at_a_line_of_the_cache_and_outlives_its_first_name(shape, dtype):
    """Of the shape and type asked for; a view keeps the memory."""
    tensors = [calls.allocated(shape, dtype) for _ in range(9)]
    views = [tensor.flatten()[1:] for tensor in tensors]
    for i, tensor in enumerate(tensors):
        assert (tensor.shape, tensor.dtype, tensor.is_contiguous()) == (shape, dtype, True)
        assert tensor.numel() == 0 or tensor.data_ptr() % 64 == 0
        tensor.fill_(i)
    del tensors, tensor
    for i, view in enumerate(views):
        assert (view == i).all()


@pytest.mark.parametrize("shape", [(0, 16, 4, 4), (2, 16, 0, 4), (2, 16, 4, 0)])
@pytest.mark.parametrize("kind", [calls.PLAIN, calls.DOUBLED, calls.SINGLE])
def test_of_no_pictures_or_places_nothing_is_convolved_and_the_gradient_is_zero(shape, kind):
    taps = 1 if kind == calls.SINGLE else 3
    x, weight = torch.randn(shape), torch.randn(16, 16, taps, taps, requires_grad=True)
    y = fused.convolution(x, weight, None, kind)
    assert y.numel() == 0
    y.sum().backward()
    assert weight.grad is not None
    assert not weight.grad.any()


def test_shapes_that_do_not_fit_are_refused_as_torch_refuses_them():
    x, weight = torch.randn(2, 32, 4, 4), torch.randn(16, 32, 3, 3)
    with pytest.raises(RuntimeError, match=r"a weight of shape \(O, 32, 3, 3\) is needed"):
        fused.convolution(x, weight[:, :16], None)
    with pytest.raises(RuntimeError, match=r"a weight of shape \(O, 32, 1, 1\) is needed"):
        fused.convolution(x, weight, None, calls.SINGLE)
    for wrong in ((1, 16, 1, 1), (2, 16, 8, 8)):
        with pytest.raises(RuntimeError, match="what is added must have the shape of the result"):
            fused.convolution(x, weight, None, added=torch.randn(wrong))


def test_a_kept_kernel_follows_its_weight():
    x, weight = leaf(1, 16, 6, 6).detach(), leaf(16, 16, 3, 3, seed=1).detach()
    first = calls.convolve(x, calls.packed(weight, x.dtype), 16)
    assert calls.packed(weight, x.dtype) is calls.packed(weight, x.dtype)
    weight.mul_(2)
    second = calls.convolve(x, calls.packed(weight, x.dtype), 16)
    torch.testing.assert_close(second, 2 * first)


def test_kept_kernels_are_made_anew_when_a_weight_lies_elsewhere_or_when_they_are_forgotten():
    x, weight = leaf(2, 16, 6, 6).detach(), leaf(16, 16, 3, 3).detach()
    first = calls.packed(weight, x.dtype)
    weight.data = weight.data.double()
    assert calls.packed(weight, x.dtype) is not first
    second = calls.packed(weight, x.dtype)
    weight.data.mul_(2)  # counts no version
    packed.forget_packed()
    torch.testing.assert_close(calls.packed(weight, x.dtype), 2 * second)


@pytest.mark.parametrize("dtype", PRECISION)
@pytest.mark.parametrize("channels", [5, 16, 24, 64, 96])  # less than a vector, whole ones, whole pieces, both
def test_channels_are_summed_over_pictures_and_places(dtype, channels):
    x = leaf(3, channels, 7, 5, dtype=dtype).detach()
    torch.testing.assert_close(calls.channel_sums(x), x.float().sum((0, 2, 3)), rtol=1e-5, atol=1e-4)


def test_a_frozen_convolution_passes_the_same_gradient_on():
    x, weight, shift = leaf(2, 8, 4, 4), leaf(8, 8, 3, 3, seed=1), leaf(8, seed=2)
    passed = []
    for w, b in ((weight, shift), (weight.detach(), shift.detach())):
        y = fused.norm_convolution(x, torch.ones(8), torch.zeros(8), 2, 1e-5, None, w, b)
        passed += torch.autograd.grad(y.square().sum(), x)
    assert relative(*passed) < 1e-6


def pictures(n=2, channels=16, size=6):
    return leaf(n, channels, size, size)


ROWS = [leaf(2, 16, seed=i) for i in (1, 2, 3)]
WEIGHT, SHIFT = leaf(24, 16, 3, 3, seed=4), leaf(24, seed=5)
CALLS = {  # every operator, with and without what may be left out
    "group_norm": [(pictures(), *ROWS, 4, 1e-5, True), (pictures(), *ROWS, 2, 1e-3, False)],
    "norm_convolution": [
        (pictures(), *ROWS, WEIGHT, SHIFT, None, 4, 1e-5),
        (pictures(), *ROWS, WEIGHT, None, leaf(2, 24, 6, 6), 4, 1e-5),
        (pictures(), *ROWS, leaf(8, 16, 3, 3), leaf(8), leaf(2, 8, 6, 6), 4, 1e-5),
    ],
    "convolution": [(pictures(), WEIGHT, SHIFT, None, kind) for kind in (calls.PLAIN, calls.DOUBLED)]
    + [(pictures(), leaf(24, 16, 1, 1), None, leaf(2, 24, 6, 6), calls.SINGLE)],
    "attention": [(pictures(channels=48), 2)],
    "group_norm_backward": [(pictures().detach(), pictures().detach(), ROWS[0].detach(), torch.rand(5, 2, 16), 4, True)],
    "norm_convolution_backward": [
        (leaf(2, 24, 6, 6).detach(), pictures().detach(), ROWS[0].detach(), WEIGHT.detach(), torch.rand(5, 2, 16), 4, w, not w)
        for w in (True, False)
    ],
    "convolution_backward": [
        (leaf(2, 24, 6, 6).detach(), pictures().detach(), WEIGHT.detach(), calls.PLAIN, a, not a, True) for a in (True, False)
    ],
    "attention_backward": [
        (leaf(2, 16, 6, 6).detach(), leaf(2, 48, 6, 6).detach(), leaf(2, 16, 6, 6).detach(), torch.rand(2, 2, 36))
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", operators.ON_CPU)
def test_every_operator_is_registered_as_torch_expects(name):
    """Its schema, its shapes for fake tensors, its gradients, and tracing with all of them."""
    for arguments in CALLS[name]:
        torch.library.opcheck(getattr(torch.ops.alphabar, name).default, arguments)


@pytest.mark.parametrize("name", operators.GRADIENTS)
def test_a_second_derivative_is_a_clear_error(name):
    arguments = CALLS[name][0]
    y = getattr(torch.ops.alphabar, name)(*arguments)
    y = y[0] if isinstance(y, tuple) else y
    (gradient,) = torch.autograd.grad(y.square().sum(), arguments[0], create_graph=True)
    with pytest.raises(RuntimeError, match=rf"{name}_backward has no derivative: .* kernels=native"):
        torch.autograd.grad(gradient.square().sum(), arguments[0])


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("group_norm", {0: torch.zeros(2, 16, 6, 6, dtype=torch.float64)}, "pictures .* in float32 or bfloat16, got"),
        (
            "group_norm",
            {1: torch.zeros(16)},
            r"rows \(2, 16\) in contiguous float32 are needed, got \(16,\)",
        ),
        ("group_norm", {4: 3}, "must divide the 16 channels, got 3"),
        ("norm_convolution", {6: torch.zeros(2, 24, 6, 6, dtype=torch.bfloat16)}, "pictures of one type"),
        ("convolution", {4: calls.HALVED}, "kind of convolution: expected one of"),
        ("convolution_backward", {0: torch.zeros(2, 24, 5, 6)}, "gradient must have the shape of the result"),
        ("attention", {1: 5}, "qkv needs 3 heads d channels, got 48 channels for 5 heads"),
    ],
)
def test_arguments_that_kernels_would_misread_are_refused(name, change, message):
    arguments = list(CALLS[name][0])
    for i, value in change.items():
        arguments[i] = value
    with pytest.raises(RuntimeError, match=message):
        getattr(torch.ops.alphabar, name)(*arguments)


class Watch(TorchDispatchMode):
    """Notes the operators that are called."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, operator, types, arguments=(), others=None):
        self.names.append(operator.name())
        return operator(*arguments, **(others or {}))


def test_what_watches_operators_sees_the_kernels_and_results_are_the_same():
    """Without anything that watches, the dispatcher is left out."""
    x = pictures()
    plain = fused.norm_convolution(x, ROWS[0], ROWS[1], 4, 1e-5, ROWS[2], WEIGHT, SHIFT)
    plain = [plain, *torch.autograd.grad(plain.square().sum(), [x, *ROWS, WEIGHT, SHIFT])]
    with Watch() as watch:
        y = fused.norm_convolution(x, ROWS[0], ROWS[1], 4, 1e-5, ROWS[2], WEIGHT, SHIFT)
        watched = [y, *torch.autograd.grad(y.square().sum(), [x, *ROWS, WEIGHT, SHIFT])]
    names = [name for name in watch.names if name.startswith("alphabar")]
    assert names == ["alphabar::norm_convolution", "alphabar::norm_convolution_backward"]
    assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))


def test_operators_take_pictures_in_any_order_of_memory():
    x = pictures()
    plain, last = (torch.ops.alphabar.convolution(v, WEIGHT, SHIFT, None, calls.PLAIN) for v in (x.contiguous(), x))
    assert torch.equal(plain, last)


def test_two_threads_transform_and_forget_kept_kernels_at_once():
    """Both precisions of one weight are kept beside each other, and each thread gets its own."""
    weights = [leaf(16, 16, 3, 3, seed=i).detach() for i in range(4)]
    expected = {(i, d): calls.transformed(w, d, calls.PLAIN, False) for i, w in enumerate(weights) for d in PRECISION}

    def work(dtype):
        for turn in range(150):
            for i, weight in enumerate(weights):
                assert torch.equal(calls.packed(weight, dtype), expected[i, dtype])
            if turn % 10 == 0:
                packed.forget_packed()

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(work, dtype) for dtype in (*PRECISION, *PRECISION)]:
            done.result()
    first, second = (calls.packed(weights[0], dtype) for dtype in PRECISION)
    assert first is not second
    assert calls.packed(weights[0], torch.float32) is first
    assert calls.packed(weights[0], torch.bfloat16) is second


def plain_attention(qkv, heads):
    """Attention of qkv (N, 3 heads d, H, W) as torch has it."""
    n, channels, height, width = qkv.shape
    q, k, v = qkv.flatten(2).transpose(1, 2).view(n, height * width, 3, heads, -1).permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(n, channels // 3, height, width)


def attended(qkv, heads, *, exactly=False):
    """The result and the gradient, by the kernel, or by torch in double precision."""
    given = (qkv.double() if exactly else qkv).detach().requires_grad_()
    y = plain_attention(given, heads) if exactly else fused.fused_attention(given, heads)
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
    assert fused.fused_attention(qkv, 1).isnan().any()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5), (8, 8)])
def test_a_doubled_convolution_is_doubling_and_convolution(height, width):
    x, weight, bias = leaf(2, 6, height, width), leaf(4, 6, 3, 3, seed=1), leaf(4, seed=2)
    fast = fused.doubled_convolution(x, weight, bias)
    plain = F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), weight, bias, padding=1)
    torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-5)
    g = torch.randn_like(plain)
    for a, b in zip(*(torch.autograd.grad(y, (x, weight, bias), g) for y in (fast, plain)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)

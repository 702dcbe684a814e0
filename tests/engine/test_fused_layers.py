"""The accelerated layers give what the plain ones give, outputs and gradients, and decline where they would skip what was customised."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize

from alphabar.engine import fused_layers
from alphabar.engine.fused_layers import FUSED, NATIVE, convolved_norm, is_plain_convolution
from alphabar.engine.ways import view
from alphabar.networks.layers import Attention, GroupNorm, Pointwise, ResidualBlock, Upsample


def relative(a, b):
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).abs().max() / b.abs().max())


def leaf(*shape, seed=0):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return (x.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else x).requires_grad_()


def fused(layer):
    """The same layer by the kernels."""
    return view(layer, FUSED, None, {})


def varied(layer):
    """With other weights than 0 and 1."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return layer


def compare(layer, inputs, limit=5e-6, **others):
    """Outputs and gradients of a layer both ways."""
    leaves = [v for v in (*inputs, *others.values(), *layer.parameters()) if isinstance(v, torch.Tensor)]
    results = []
    for each in (layer, fused(layer)):
        y = each(*inputs, **others)
        results.append((y, *torch.autograd.grad(y.square().sum(), leaves)))
    largest = max(float(plain.detach().abs().max()) for plain in results[0])
    for plain, fast in zip(*results, strict=True):
        scale = max(float(plain.detach().abs().max()), 0.01 * largest)  # the gradient of the biases of keys is 0
        assert float((fast - plain).detach().abs().max()) < limit * scale


ROWS = {"plain": [], "offset": ["offset"], "scale and shift": ["scale", "shift"]}


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("silu", [True, False])
def test_norms_are_the_same(rows, silu):
    compare(
        varied(GroupNorm(4, 16)),
        [leaf(3, 16, 5, 5), silu],
        **{name: leaf(3, 16, seed=4 + i) for i, name in enumerate(ROWS[rows])},
    )


@pytest.mark.parametrize("channels", [8, 16])  # torch's convolution, and the kernels'
def test_upsampling_and_shortcuts_are_the_same(channels):
    x = leaf(2, channels, 6, 5)
    compare(varied(Upsample(channels)), [x, torch.Size((12, 10))])
    compare(varied(Pointwise(channels, 2 * channels)), [x])


@pytest.mark.parametrize("time_mode", ["add", "scale_shift"])
@pytest.mark.parametrize(("channels", "outputs"), [(8, 8), (16, 24)])
@pytest.mark.parametrize("guided", [True, False])
def test_residual_blocks_are_the_same(time_mode, channels, outputs, guided):
    block = varied(ResidualBlock(channels, outputs, 12, 4, 1e-5, 0.0, time_mode, (3, 8) if guided else None))
    inputs = [leaf(2, channels, 5, 5), leaf(2, 12, seed=1), *([leaf(2, 3, 5, 5, seed=2)] if guided else [])]
    compare(block, inputs, limit=2e-5)


@pytest.mark.parametrize("inside", [True, False])
def test_the_kernels_serve_in_inference_mode(inside):
    layer, x = Attention(32, 8, 4, 1e-5), torch.randn(1, 32, 4, 4)
    expected = layer(x)
    with torch.inference_mode():
        y = fused(layer)(x.clone() if inside else x)
    torch.testing.assert_close(y, expected.detach(), atol=1e-5, rtol=1e-5)


def test_attention_is_the_same():
    compare(varied(Attention(32, 8, 4, 1e-5)), [leaf(2, 32, 4, 4)], limit=2e-5)


def test_of_norm_and_convolution_only_x_is_kept():
    norm, conv, x, kept = GroupNorm(4, 16), nn.Conv2d(16, 16, 3, padding=1), leaf(2, 16, 32, 32), set[int]()

    def keep(tensor):
        if tensor.numel() >= x.numel():
            kept.add(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        convolved_norm(norm, conv, x)
    assert kept == {x.data_ptr()}


@pytest.mark.parametrize("layers", [NATIVE, FUSED])
def test_upsampling_to_an_odd_size_is_plain(layers):
    layer, x = Upsample(16), leaf(1, 16, 3, 3)
    plain = layer.conv(F.interpolate(x, size=(5, 6), mode="nearest"))
    torch.testing.assert_close(view(layer, layers, None, {})(x, torch.Size((5, 6))), plain)


def test_dropout_is_not_skipped():
    block = fused(varied(ResidualBlock(16, 16, 12, 4, 1e-5, 0.5, "add"))).train()
    x, emb = leaf(2, 16, 5, 5), leaf(2, 12, seed=1)
    assert not torch.equal(block(x, emb), block(x, emb))
    block.eval()
    assert torch.equal(block(x, emb), block(x, emb))


class Doubled(nn.Module):
    """A parametrization."""

    def forward(self, x):
        return 2 * x


class Scaled(nn.Module):
    """Takes the place of a layer, as an adapter does."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.layer, name)

    def forward(self, *args, **kwargs):
        return 3 * self.layer(*args, **kwargs)


class Subclass(nn.Conv2d):
    """A convolution with something of its own."""

    def forward(self, x):
        return super().forward(x) + 1


CASES = {
    "block": (
        lambda: ResidualBlock(16, 24, 12, 4, 1e-5, 0.0, "add"),
        lambda: [leaf(2, 16, 5, 5), leaf(2, 12, seed=1)],
        ["norm1", "conv1", "norm2", "conv2", "dropout", "conv_shortcut"],
    ),
    "attention": (
        lambda: Attention(32, 8, 4, 1e-5),
        lambda: [leaf(2, 32, 4, 4)],
        ["group_norm", "to_q", "to_k", "to_v", "to_out.0"],
    ),
    "upsample": (lambda: Upsample(16), lambda: [leaf(2, 16, 3, 3), torch.Size((6, 6))], ["conv"]),
}
CHILDREN = [(name, child) for name, (_, _, children) in CASES.items() for child in children]


@pytest.mark.parametrize(("case", "child"), CHILDREN)
@pytest.mark.parametrize("hook", ["forward", "forward_pre", "full_backward", "full_backward_pre"])
def test_hooks_of_children_are_called(case, child, hook):
    make, inputs, _ = CASES[case]
    layer, calls = varied(make()), []
    fast = fused(layer)
    hooked = fast if hook == "full_backward" else layer  # the others may be added to the original afterwards
    getattr(hooked.get_submodule(child), f"register_{hook}_hook")(lambda *_: calls.append(1))
    fast(*inputs()).sum().backward()
    assert calls == [1]


@pytest.mark.parametrize(("case", "child"), CHILDREN)
@pytest.mark.parametrize("change", ["forward hook", "own forward", "parametrization", "replaced", "global hook"])
def test_what_is_customised_counts(case, child, change):
    """The result is that of the plain layer with the same change; a global hook is called."""
    make, inputs, _ = CASES[case]
    layer = varied(make())
    before, part = layer(*inputs()), layer.get_submodule(child)
    calls = []
    handle = None
    if change == "forward hook":
        part.register_forward_hook(lambda module, args, y: 3 * y)
    elif change == "own forward":
        forward = part.forward
        part.forward = lambda *args, **kwargs: 3 * forward(*args, **kwargs)
    elif change == "parametrization":
        if not list(part.parameters()):
            pytest.skip("no parameters")
        parametrize.register_parametrization(part, "weight", Doubled())
    elif change == "replaced":
        layer.set_submodule(child, Scaled(part))
    else:
        handle = nn.modules.module.register_module_forward_hook(lambda module, args, y: calls.append(type(module)))
    fast = fused(layer)
    try:
        y = fast(*inputs())
        count = len(calls)
        plain = layer(*inputs())
    finally:
        if handle is not None:
            handle.remove()
    assert relative(y, plain) < 5e-6
    if change == "global hook":
        assert count == len(calls) - count > 0
    elif child not in ("to_q", "to_k"):  # scores that are scaled still give weights whose sum is 1
        assert relative(y, before) > 1e-3


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(16, 16, 3, padding=1, stride=2),
        nn.Conv2d(16, 16, 3, padding=0),
        nn.Conv2d(16, 16, 3, padding=2, dilation=2),
        nn.Conv2d(16, 16, 3, padding=1, groups=2),
        nn.Conv2d(16, 16, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(16, 16, 5, padding=2),
        Subclass(16, 16, 3, padding=1),
    ],
    ids=["stride", "padding", "dilation", "groups", "padding mode", "size", "class"],
)
def test_a_convolution_of_another_layout_is_computed_as_it_is(conv):
    assert not is_plain_convolution(conv, 3)
    block = varied(ResidualBlock(16, 16, 12, 4, 1e-5, 0.0, "add"))
    block.conv1 = varied(conv)
    x, emb = leaf(2, 16, 6, 6), leaf(2, 12, seed=1)
    plain, fast = block.first(x, None), fused(block).first(x, None)
    assert relative(fast, plain) < 5e-6
    upsample = varied(Upsample(16))
    upsample.conv = conv
    for layers in (NATIVE, FUSED):
        y = view(upsample, layers, None, {})(x, torch.Size((12, 12)))
        assert relative(y, upsample(x, torch.Size((12, 12)))) < 5e-6
    assert emb is not None


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_types_are_computed_as_they_are(dtype):
    block = varied(ResidualBlock(16, 24, 12, 4, 1e-5, 0.0, "add")).to(dtype)
    x, emb = leaf(2, 16, 6, 6).to(dtype), leaf(2, 12, seed=1).to(dtype)
    assert torch.equal(fused(block)(x, emb), block(x, emb))
    layer = varied(Attention(32, 8, 4, 1e-5)).to(dtype)
    x = leaf(2, 32, 4, 4).to(dtype)
    assert torch.equal(fused(layer)(x), layer(x))


def test_another_device_is_computed_as_it_is():
    block = ResidualBlock(16, 24, 12, 4, 1e-5, 0.0, "add").to("meta")
    y = fused(block)(torch.empty(2, 16, 6, 6, device="meta"), torch.empty(2, 12, device="meta"))
    assert y.shape == (2, 24, 6, 6)


@pytest.mark.parametrize("layer", ["block", "attention", "upsample"])
def test_the_kernels_are_used_where_nothing_is_customised(layer, monkeypatch):
    make, inputs, _ = CASES[layer]
    used = []
    for name in ("norm_convolution", "fused_attention", "convolution"):
        function = getattr(fused_layers, name)
        monkeypatch.setattr(fused_layers, name, lambda *a, f=function, n=name, **k: used.append(n) or f(*a, **k))
    fused(make())(*inputs())
    assert (
        used
        == {
            "block": ["norm_convolution", "convolution", "norm_convolution"],
            "attention": ["convolution", "fused_attention", "convolution"],
            "upsample": ["convolution"],
        }[layer]
    )

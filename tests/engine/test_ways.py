"""A way to compute a network is a value: it builds another module with the same parameters, and changes nothing of the network."""

from __future__ import annotations

import copy
import io
import pickle
import threading

import pytest
import torch
from torch import nn

from alphabar.engine.fused_layers import FusedResidualBlock
from alphabar.engine.ways import Accelerated, Way, accelerate, in_float32, is_rounded, original, way_of, with_way
from alphabar.errors import ConfigurationError
from alphabar.generation.pipeline import Pipeline
from alphabar.model import build_denoiser
from alphabar.networks.cond import Cond, Doors
from alphabar.networks.unet import UNet
from alphabar.settings.config import finish
from alphabar.settings.networks import UNetSettings

ALL = [Way(precision, kernels) for precision in ("float32", "bfloat16") for kernels in ("native", "fused")]
FUSED, LOW = Way("float32", "fused"), Way("bfloat16", "fused")
TIME = torch.tensor([1.0, 200.0, 500.0, 900.0])
SHAPE = (1, 8, 8)


def small_unet(doors=None, channels=(8, 16), **settings):
    torch.manual_seed(0)
    values = {"channels": list(channels), "attention": [False, True], "groups": 4, "head_channels": 8, "token_dim": 8}
    net = UNet(UNetSettings(**values | settings), 3, 3, doors).to(memory_format=torch.channels_last)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return net


def pictures(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def net():
    return small_unet()


@pytest.fixture
def x():
    return pictures(4, 3, 8, 8)


@pytest.fixture
def denoiser():
    return build_denoiser(finish({"preset": "tiny"}, SHAPE[1:]), SHAPE).requires_grad_(False)


def test_a_way_says_what_it_is_and_refuses_what_is_unknown():
    assert [str(way) for way in ALL] == ["float32", "float32, fused kernels", "bfloat16", "bfloat16, fused kernels"]
    with pytest.raises(ConfigurationError, match=r"precision 'bfloat61'.*bfloat16"):
        Way("bfloat61")
    with pytest.raises(ConfigurationError, match=r"kernels 'fussed'.*fused"):
        Way(kernels="fussed")


@pytest.mark.parametrize("time_mode", ["add", "scale_shift"])
@pytest.mark.parametrize("way", ALL, ids=str)
def test_a_whole_network_agrees(time_mode, way):
    """With modulation and tokens too; bfloat16 as near to float32 as the plain way is."""
    net = small_unet(Doors(tokens=True, modulation=5), time_mode=time_mode)
    cond = Cond(pictures(4, net.vector_dim), pictures(4, 6, 8, seed=1), modulation=pictures(4, 5, 8, 8, seed=2))
    x, results = pictures(4, 3, 8, 8), []
    for network in (net, accelerate(net, way)):
        y = network(x, TIME, cond).float()
        parameters = [p for p in network.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(y.square().mean(), parameters, allow_unused=True)
        results.append((y.detach(), torch.cat([g.flatten() for g in gradients if g is not None])))
    limits = (1e-5, 1e-5) if way.precision == "float32" else (0.03, 0.05)
    for plain, fast, limit in zip(*results, limits, strict=True):
        assert float((fast - plain).norm() / plain.norm()) < limit
    assert way == Way() or not torch.equal(results[0][0], results[1][0])


@pytest.mark.parametrize("way", ALL, ids=str)
def test_parameters_buffers_and_names_are_those_of_the_network(net, way):
    net.register_buffer("scale", torch.ones(3))
    module = accelerate(net, way)
    for kind in ("named_parameters", "named_buffers"):
        expected, named = dict(getattr(net, kind)()), dict(getattr(module, kind)())
        assert list(named) == list(expected)
        assert all(named[name] is tensor for name, tensor in expected.items())
    assert list(module.state_dict()) == list(net.state_dict())
    assert module.vector_dim == net.vector_dim
    assert module.settings is net.settings
    with pytest.raises(AttributeError):
        module.nothing  # noqa: B018


@pytest.mark.parametrize("way", ALL, ids=str)
@pytest.mark.parametrize("change", ["optimizer", "load", "assign", "data", "new parameter"])
def test_changes_of_the_network_are_seen(net, x, way, change):
    module, other = accelerate(net.requires_grad_(change == "optimizer"), way), small_unet()
    before = module(x, TIME, Cond()).detach()
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(1.1)
    if change == "optimizer":
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        module(x, TIME, Cond()).float().square().mean().backward()
        optimizer.step()
        assert not torch.equal(net.conv_in.weight, small_unet().conv_in.weight)
    elif change == "data":
        for p, q in zip(net.parameters(), other.parameters(), strict=True):
            p.data = q.data
    elif change == "new parameter":
        net.conv_in.weight = nn.Parameter(2 * net.conv_in.weight)
    else:
        net.load_state_dict(other.state_dict(), assign=change == "assign")
    after = module(x, TIME, Cond()).detach()
    assert not torch.equal(after, before)
    assert torch.equal(after, accelerate(copy.deepcopy(net), way)(x, TIME, Cond()).detach())


@pytest.mark.parametrize("way", ALL, ids=str)
def test_copies_and_pickles_compute_the_same_with_weights_of_their_own(net, x, way):
    module = accelerate(net.requires_grad_(False), way)
    expected, stream = module(x, TIME, Cond()), io.BytesIO()
    pickle.dump(module, stream)
    for other in (copy.deepcopy(module), pickle.loads(stream.getvalue())):
        assert isinstance(other, Accelerated)
        assert other.way == way
        assert torch.equal(other(x, TIME, Cond()), expected)
        assert original(other) is not net
        assert next(original(other).parameters()) is next(other.parameters()) is not next(net.parameters())
        for p in other.parameters():
            p.zero_()
        assert torch.equal(module(x, TIME, Cond()), expected)


def test_accelerating_twice_starts_from_the_original(net, x):
    module = accelerate(accelerate(net, LOW), Way())
    assert original(module) is original(net) is net
    assert torch.equal(module(x, TIME, Cond()), accelerate(net, Way())(x, TIME, Cond()))


def test_the_network_stays_as_it_is(net, x):
    before, kinds = net(x, TIME, Cond()), [type(part) for part in net.modules()]
    module = accelerate(net.train(), LOW)
    module(x, TIME, Cond())
    assert any(isinstance(part, FusedResidualBlock) for part in module.modules())
    assert [type(part) for part in net.modules()] == kinds
    assert torch.equal(net(x, TIME, Cond()), before)
    module.eval()
    assert not any(part.training for part in module.modules())
    assert all(part.training for part in net.modules())


def test_float32_is_float32_inside_of_autocast(net, x):
    module = accelerate(net, Way())
    expected = module(x, TIME, Cond())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(module(x, TIME, Cond()), expected)


def test_any_module_can_be_a_network(x):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = self.again = nn.Conv2d(3, 3, 1)
            self.calls = []

        def forward(self, x, time, cond):
            self.calls.append(1)
            return self.conv(x)

    own = Own()
    module = accelerate(own, FUSED)
    assert torch.equal(module(x, TIME, Cond()), own(x, TIME, Cond()))
    assert module.conv is module.again
    scripted = torch.jit.trace(nn.Conv2d(3, 3, 1), x)
    own.conv = scripted
    assert torch.equal(accelerate(own, FUSED)(x, TIME, Cond()), scripted(x))


def test_two_ways_in_two_threads_give_what_each_gives_alone(denoiser):
    """Two generators over one model, in step with each other."""
    pipelines = [Pipeline(with_way(denoiser, way), SHAPE).with_settings(steps=6) for way in (Way(), LOW)]
    alone = [pipeline.sample(4, seed=i).pictures for i, pipeline in enumerate(pipelines)]
    barrier, together, errors = threading.Barrier(2, timeout=60), [None, None], []

    def work(i):
        try:
            for _ in range(3):
                together[i] = pipelines[i].sample(4, seed=i, on_state=lambda state: barrier.wait()).pictures
                assert (together[i] == alone[i]).all()
        except BaseException as error:
            errors.append(error)
            barrier.abort()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert (
        alone[0] != Pipeline(with_way(denoiser, LOW), SHAPE).with_settings(steps=6).sample(4, seed=0).pictures
    ).any()


def test_a_denoiser_with_a_way_shares_all_but_its_network(denoiser):
    low = with_way(denoiser, LOW)
    assert (way_of(denoiser), way_of(low)) == (Way(), LOW)
    assert low.encoders is denoiser.encoders
    assert low.schedule is denoiser.schedule
    assert isinstance(denoiser.network, UNet)
    assert list(low.state_dict()) == list(denoiser.state_dict())
    assert way_of(in_float32(low)) == FUSED
    assert low.output(torch.ones(2, *SHAPE), 0.5)[0].dtype == torch.float32


def test_rounded_weights_are_copies_and_can_be_left_again(denoiser):
    rounded = with_way(denoiser, LOW, rounded=True)
    assert is_rounded(rounded)
    assert not is_rounded(denoiser)
    assert {p.dtype for p in denoiser.parameters()} == {torch.float32}
    kinds = {type(m).__name__: m.weight.dtype for m in rounded.network.modules() if hasattr(m, "weight")}
    assert kinds["Conv2d"] == kinds["Linear"] == torch.bfloat16
    assert kinds["FusedGroupNorm"] == torch.float32
    x = torch.ones(2, *SHAPE)
    assert torch.equal(in_float32(rounded)(x, 0.5).eps, with_way(denoiser, FUSED)(x, 0.5).eps)


def test_compiled_networks_call_the_operators(x):
    """`torch.compile` traces the kernels as operators, forward and backward, in one graph."""
    net = small_unet(channels=(16, 16), blocks=1)
    module, graphs = accelerate(net, FUSED), []

    def backend(graph, inputs):
        graphs.append(str(graph.graph))
        return graph.forward

    torch._dynamo.reset()
    try:
        compiled = torch.compile(module, backend=backend, fullgraph=True)
        torch.testing.assert_close(compiled(x, TIME, Cond()), module(x, TIME, Cond()))
        compiled = torch.compile(module)
        results = []
        for network in (module, compiled):
            y = network(x, TIME, Cond())
            results.append((y, *torch.autograd.grad(y.square().mean(), list(net.parameters()), allow_unused=True)))
    finally:
        torch._dynamo.reset()
    assert len(graphs) == 1
    assert all(name in graphs[0] for name in ("alphabar.norm_convolution", "alphabar.attention", "alphabar.group_norm"))
    for plain, fast in zip(*results, strict=True):
        assert (plain is None) == (fast is None)
        if plain is not None:
            torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-5)


def test_exported_networks_hold_the_operators(x):
    class Unconditional(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, x, time):
            return self.network(x, time, Cond())

    module = Unconditional(accelerate(small_unet(channels=(16, 16), blocks=1).requires_grad_(False), FUSED))
    program = torch.export.export(module, (x, TIME))
    assert "alphabar.norm_convolution" in program.graph_module.print_readable(print_output=False)
    torch.testing.assert_close(program.module()(x, TIME), module(x, TIME))

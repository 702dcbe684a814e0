"""The choice of precision and kernels: the fastest that agrees, never slower than plain float32, kept for the next time."""

from __future__ import annotations

import json
import math
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import nn

from alphabar.diffusion.denoiser import Denoiser
from alphabar.diffusion.schedule import TableSchedule, linear_betas
from alphabar.engine import speed
from alphabar.engine.fused_layers import FusedResidualBlock
from alphabar.engine.speed import (
    PLAIN,
    Choice,
    Probe,
    Result,
    choose,
    fastest_kernels,
    measure,
    settle_sampling,
    settle_way,
    ways,
)
from alphabar.engine.ways import Way, in_float32, watchable, way_of, with_way
from alphabar.errors import ConfigurationError
from alphabar.generation.pipeline import Asked, Pipeline
from alphabar.model import build_denoiser
from alphabar.networks.layers import ResidualBlock
from alphabar.settings.config import finish
from alphabar.training import settling

SHAPE = (1, 8, 8)
LOW, FUSED, BOTH = Way("bfloat16"), Way("float32", "fused"), Way("bfloat16", "fused")


@pytest.fixture(autouse=True)
def _time_enough(monkeypatch):
    monkeypatch.setattr(speed, "BUDGET", 5.0)


@pytest.fixture
def denoiser():
    return build_denoiser(finish({"preset": "tiny"}, SHAPE[1:]), SHAPE)


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """Let a measurement find these seconds; returns the list of what was measured."""
    monkeypatch.setenv("ALPHABAR_CACHE", str(tmp_path / "cache"))
    asked: list[list[Way]] = []

    def find(seconds: dict[Way, float]) -> list[list[Way]]:
        def stand_in(denoiser, shape, candidates, most=16, a_picture=None):
            asked.append(list(candidates))
            return {way: seconds[way] for way in candidates}

        monkeypatch.setattr(speed, "measure", stand_in)
        monkeypatch.setattr(speed, "pilot", lambda denoiser, shape: seconds[PLAIN])
        return asked

    return find


def test_dropout_does_not_keep_a_way_from_agreeing():
    settings = {"preset": "tiny", "network": {"dropout": 0.5}}
    denoiser = build_denoiser(finish(settings, SHAPE[1:]), SHAPE).train()
    seconds = measure(denoiser, SHAPE, [PLAIN, LOW])
    assert all(map(math.isfinite, seconds.values()))
    assert all(m.training for m in denoiser.modules())
    assert speed.fingerprint(denoiser, SHAPE) != speed.fingerprint(
        build_denoiser(finish({"preset": "tiny"}, SHAPE[1:]), SHAPE), SHAPE
    )


def test_the_settings_leave_these_ways_open():
    assert ways("auto", "auto", True) == [PLAIN, LOW, FUSED, BOTH]
    assert ways("auto", "auto", False) == [PLAIN, LOW]
    assert ways("bfloat16", "auto", True) == [LOW, BOTH]
    assert ways("float32", "fused", False) == [FUSED]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({PLAIN: 1.0, LOW: 0.5, FUSED: 0.8, BOTH: 0.4}, BOTH),
        ({PLAIN: 1.0, LOW: 2.0, FUSED: 1.1, BOTH: 3.0}, PLAIN),
        ({PLAIN: 1.0, LOW: 0.97, FUSED: 0.99, BOTH: 0.98}, PLAIN),  # not worth it
        ({PLAIN: 1.0, LOW: math.inf, FUSED: 0.6, BOTH: math.inf}, FUSED),
    ],
)
def test_the_fastest_that_is_worth_it_is_taken(denoiser, measured, seconds, expected):
    measured(seconds)
    choice = choose(denoiser, SHAPE, list(seconds))
    assert choice.way == expected
    assert choice.gain == seconds[PLAIN] / seconds[expected]


def test_what_was_measured_together_is_kept(denoiser, measured):
    """What is missing is measured anew with all that it is compared with, and the rest is not forgotten."""
    asked = measured({PLAIN: 1.0, LOW: 0.5, FUSED: 0.8, BOTH: math.inf})
    assert choose(denoiser, SHAPE, [PLAIN, LOW]).way == LOW
    assert choose(denoiser, SHAPE, [PLAIN, LOW]).way == LOW
    assert asked == [[PLAIN, LOW]]
    assert choose(denoiser, SHAPE, [LOW, BOTH]).way == LOW
    assert asked[1:] == [[PLAIN, LOW, BOTH]]
    assert choose(denoiser, SHAPE, [LOW, BOTH]).way == LOW  # that it failed is known too
    assert len(asked) == 2
    choose(denoiser, SHAPE, [PLAIN, FUSED])
    assert choose(denoiser, SHAPE, [PLAIN, LOW, FUSED, BOTH]).way == LOW
    assert len(asked) == 3
    choose(denoiser, (1, 16, 16), [PLAIN, LOW])
    assert len(asked) == 4


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": 1}', "OF_THIS"])
def test_a_damaged_record_is_measured_anew(denoiser, measured, tmp_path, content):
    (tmp_path / "cache").mkdir()
    path = tmp_path / "cache" / "speed.json"
    asked = measured({PLAIN: 1.0, LOW: 0.5})
    if content == "OF_THIS":  # a record under the right name, of something else
        choose(denoiser, SHAPE, [PLAIN, LOW])
        asked.clear()
        content = json.dumps(
            {name: {str(way): "x" for way in kept} for name, kept in json.loads(path.read_text()).items()}
        )
    path.write_text(content)
    assert choose(denoiser, SHAPE, [PLAIN, LOW]).way == LOW
    assert len(asked) == 1
    assert json.loads((tmp_path / "cache" / "speed.json").read_text())


def test_a_folder_that_cannot_be_written_is_no_reason_to_stop(denoiser, measured, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ALPHABAR_CACHE", str(tmp_path / "file"))
    measured({PLAIN: 1.0, LOW: 0.5})
    assert choose(denoiser, SHAPE, [PLAIN, LOW]).way == LOW


def test_one_way_needs_no_measurement(denoiser, measured):
    assert measured({}) == []
    assert choose(denoiser, SHAPE, [BOTH]) == Choice(BOTH, {})


def test_ways_are_measured_in_turns(denoiser, monkeypatch):
    """So that a busy moment of the machine does not decide."""
    seen = []
    original = Result.of

    def watched(denoiser, way, probe):
        seen.append(way)
        return original(denoiser, way, probe)

    monkeypatch.setattr(Result, "of", watched)
    monkeypatch.setattr(speed, "BUDGET", 60.0)
    measure(denoiser, SHAPE, [PLAIN, LOW], a_picture=0.1)
    assert seen == [PLAIN, LOW] * 4


def test_fused_kernels_without_a_compiler_are_a_clear_error(denoiser, monkeypatch):
    monkeypatch.setattr(speed, "fused_fails", lambda: "none was found")
    with pytest.raises(ConfigurationError, match=r"needs a C\+\+ compiler .* none was found.* use native"):
        settle_way(denoiser, SHAPE, "float32", "fused", lambda a: 0.0)


def test_where_one_precision_is_given_its_speed_is_measured_to_see_whether_compiling_is_worth_it(denoiser, measured):
    asked = measured({PLAIN: 1.0, LOW: 0.5, BOTH: 0.2})
    assert settle_way(denoiser, SHAPE, "bfloat16", "auto", lambda a: 10 * a).way == LOW
    assert asked == []  # nothing to choose
    assert settle_way(denoiser, SHAPE, "bfloat16", "auto", lambda a: 1000 * a).way == BOTH
    assert asked == [[PLAIN, LOW, BOTH]]


@pytest.mark.parametrize("fails", [False, True])
def test_a_measurement_leaves_the_denoiser_and_its_gradients_as_they_were(denoiser, monkeypatch, fails):
    """Also when it is interrupted."""
    denoiser = with_way(denoiser, LOW)
    denoiser.train().output(torch.ones(2, *SHAPE), 0.5, denoiser.encode({}, 2))[0].sum().backward()
    before = [None if p.grad is None else p.grad.clone() for p in denoiser.parameters()]
    if fails:
        original = Result.of

        def interrupted(denoiser, way, probe):
            if way == BOTH:
                raise KeyboardInterrupt
            return original(denoiser, way, probe)

        monkeypatch.setattr(Result, "of", interrupted)
        with pytest.raises(KeyboardInterrupt):
            measure(denoiser, SHAPE, [PLAIN, LOW, BOTH])
    else:
        found = measure(denoiser, SHAPE, [PLAIN, LOW])
        assert set(found) == {PLAIN, LOW}
        assert all(0 < seconds < math.inf for seconds in found.values())
    assert way_of(denoiser) == LOW
    assert all(m.training for m in denoiser.modules())
    for p, grad in zip(denoiser.parameters(), before, strict=True):
        assert p.requires_grad
        assert grad is None if p.grad is None else torch.equal(p.grad, grad)


@pytest.mark.parametrize("error", [RuntimeError("no compiler"), MemoryError("no memory for a kernel")])
def test_a_way_that_fails_or_disagrees_is_out(denoiser, monkeypatch, error):
    original = Result.of

    def broken(denoiser, way, probe):
        if way == BOTH:
            raise error
        found = original(denoiser, PLAIN, probe)
        return Result(found.output, found.gradient * (1.2 if way == LOW else 1.0), 0.1)

    monkeypatch.setattr(Result, "of", broken)
    monkeypatch.setattr(speed, "pilot", lambda denoiser, shape: 1e-6)
    assert measure(denoiser, SHAPE, [PLAIN, LOW, FUSED, BOTH]) == {
        PLAIN: 0.1 / 16, LOW: math.inf, FUSED: 0.1 / 16, BOTH: math.inf,
    }  # fmt: skip


def test_bfloat16_agrees_with_float32_and_noise_does_not(denoiser):
    probe = Probe.of(torch.device("cpu"), 4, SHAPE, SHAPE)
    plain, low, fused = (Result.of(denoiser, way, probe) for way in (PLAIN, LOW, FUSED))
    assert low.agrees(plain, "bfloat16")
    assert not torch.equal(low.output, plain.output)
    assert not Result(plain.output * 1.1, plain.gradient, 0).agrees(plain, "bfloat16")
    assert not Result(plain.output, plain.gradient + 0.2 * plain.gradient.std(), 0).agrees(plain, "bfloat16")
    assert fused.agrees(plain, "float32")
    assert not torch.equal(fused.output, plain.output)


@pytest.mark.parametrize("part", ["output", "gradient"])
def test_float32_kernels_must_agree_to_four_digits(denoiser, part):
    """bfloat16 need not."""
    plain = Result.of(denoiser, PLAIN, Probe.of(torch.device("cpu"), 4, SHAPE, SHAPE))
    for error, agrees in ((0.5e-4, True), (2e-4, False)):
        other = replace(plain, **{part: getattr(plain, part) * (1 + error)})
        assert other.agrees(plain, "float32") == agrees
        assert other.agrees(plain, "bfloat16")


def test_float32_kernels_that_disagree_are_not_taken(denoiser, monkeypatch):
    original = Result.of

    def inexact(denoiser, way, probe):
        found = original(denoiser, PLAIN, probe)
        return replace(found, output=found.output * (1.001 if way.kernels == "fused" else 1.0))

    monkeypatch.setattr(Result, "of", inexact)
    seconds = measure(denoiser, SHAPE, [PLAIN, FUSED, BOTH])
    assert math.isinf(seconds[FUSED])
    assert math.isfinite(seconds[BOTH])


def test_training_settles_on_the_choice(measured, tmp_path, monkeypatch):
    import numpy as np

    from alphabar.data.pictures import PictureSet

    monkeypatch.setattr(settling, "settle_way", settle_way)
    asked = measured({PLAIN: 1.0, LOW: 0.5, FUSED: 0.6, BOTH: 0.2})
    data = PictureSet(np.zeros((8, 8, 8, 1), np.uint8))

    def settled(**train):
        config = finish({"preset": "tiny", "train": {"batch_size": 2, **train}}, [8, 8])
        found = settling.settle(config, data).config.train
        return found.precision, found.kernels

    assert settled(steps=2) == ("bfloat16", "native")  # too short to compile anything
    assert settled(steps=10_000) == ("bfloat16", "fused")
    assert settled(steps=10_000, kernels="native") == ("bfloat16", "native")
    assert settled(steps=10_000, precision="float32", kernels="native") == ("float32", "native")
    assert asked


def test_points_stay_in_plain_float32():
    class Points:
        shape = (2,)

        def __len__(self):
            return 4

    train = settling.settle(finish({"preset": "tiny", "network": {"kind": "mlp"}}, [1]), Points()).config.train
    assert (train.precision, train.kernels) == ("float32", "native")


def test_sampling_keeps_the_precision_of_the_training_unless_told(denoiser, measured):
    asked = measured({PLAIN: 1.0, LOW: 0.5, BOTH: 0.2})
    low = with_way(denoiser, LOW)
    for each in (denoiser, low):
        same, choice = settle_sampling(each, SHAPE, 10, None)
        assert (way_of(same), choice) == (way_of(each), None)
    assert asked == []
    settled, choice = settle_sampling(denoiser, SHAPE, 10, "auto")
    assert choice is not None
    assert (choice.way, choice.gain) == (LOW, 2.0)
    assert (way_of(settled), way_of(denoiser)) == (LOW, PLAIN)
    assert way_of(settle_sampling(settled, SHAPE, 10, "float32")[0]) == PLAIN
    with pytest.raises(ConfigurationError, match="did you mean 'bfloat16'"):
        settle_sampling(denoiser, SHAPE, 10, "bfloat61")


@pytest.mark.parametrize(("seconds", "fused"), [(1.0, True), (1e-6, False)])
def test_kernels_are_compiled_only_for_long_sampling(denoiser, measured, seconds, fused):
    measured({PLAIN: seconds, FUSED: seconds / 2})
    assert way_of(settle_sampling(denoiser, SHAPE, 100, "float32")[0]) == PLAIN
    assert way_of(settle_sampling(denoiser, SHAPE, 20_000, "float32")[0]) == (FUSED if fused else PLAIN)


def test_rounded_weights_give_the_same_pictures(denoiser):
    pipeline = Pipeline(with_way(denoiser.requires_grad_(False), LOW), SHAPE).with_settings(steps=3)
    plain, rounded = pipeline.sample(2, seed=1).pictures, pipeline.rounded()
    assert next(rounded.denoiser.network.parameters()).dtype == torch.bfloat16
    assert next(denoiser.network.parameters()).dtype == torch.float32
    assert rounded.sampling_record()["precision"] == "bfloat16"
    pictures = rounded.sample(2, seed=1).pictures  # the kernel of an upsampling is summed after rounding and not before
    assert abs(pictures.astype(int) - plain.astype(int)).max() <= 3
    assert (pipeline.sample(2, seed=1).pictures == plain).all()
    in_full = Pipeline(denoiser, SHAPE)
    assert in_full.rounded() is in_full


def test_the_batch_of_long_sampling_is_the_fastest_that_fits_and_is_measured_once(denoiser, monkeypatch, tmp_path):
    monkeypatch.setenv("ALPHABAR_CACHE", str(tmp_path / "cache"))
    asked: list[list[int]] = []

    def stand_in(denoiser, shape, candidates):
        asked.append(list(candidates))
        return {batch: {16: 3.0, 32: 1.0, 64: 2.0, 128: 0.5}[batch] for batch in candidates}

    monkeypatch.setattr(speed, "measure_batches", stand_in)
    assert speed.fastest_batch(denoiser, SHAPE, 128) == 128
    assert speed.fastest_batch(denoiser, SHAPE, 100) == 32  # those up to 64 are known
    assert asked == [[16, 32, 64, 128]]
    denoiser = with_way(denoiser, LOW)
    assert speed.fastest_batch(denoiser, SHAPE, 64) == 32
    assert asked[1:] == [[16, 32, 64]]  # computed otherwise, measured anew
    assert speed.fastest_batch(denoiser, SHAPE, 20) == 20  # nothing to choose from
    assert len(asked) == 2


def test_batches_are_measured_on_the_network(denoiser, monkeypatch):
    sizes: list[int] = []
    output = denoiser.output
    monkeypatch.setattr(denoiser, "output", lambda x_t, t, cond: (sizes.append(len(x_t)), output(x_t, t, cond))[1])
    with torch.no_grad():
        found = speed.measure_batches(denoiser, SHAPE, [2, 5])
    assert sizes == [2, 5] * speed.ROUNDS
    assert all(0 < seconds < math.inf for seconds in found.values())


def test_only_long_sampling_measures_its_batch(denoiser, monkeypatch):
    measured: list[int] = []
    monkeypatch.setattr(
        "alphabar.generation.pipeline.fastest_batch", lambda denoiser, shape, most: measured.append(most) or 8
    )
    own = Pipeline(denoiser, SHAPE).with_settings(steps=100)
    few = speed.MANY_EVALUATIONS // own.steps // 2
    assert own.fitting_batch(Asked.nothing(few)) > 8
    assert not measured
    assert own.fitting_batch(Asked.nothing(2 * few + own.steps)) == 8
    assert len(measured) == 1


@pytest.fixture
def settled(monkeypatch):
    """Sampling of 60 estimates is long; it takes the fused kernels, and tells how many estimates it was asked for."""
    asked: list[int] = []

    def settle(denoiser, shape, evaluations, precision):
        assert precision is None
        asked.append(evaluations)
        return with_way(denoiser, replace(way_of(denoiser), kernels="fused")), None

    monkeypatch.setattr(speed, "settle_sampling", settle)
    monkeypatch.setattr("alphabar.generation.pipeline.fastest_batch", lambda denoiser, shape, most: 64)
    for module in ("alphabar.generation.pipeline", "alphabar.engine.speed"):
        monkeypatch.setattr(f"{module}.MANY_EVALUATIONS", 60)
    return asked


def test_long_sampling_from_python_takes_the_fastest_kernels_while_it_lasts(denoiser, settled, monkeypatch):
    used: list[str] = []
    forward = ResidualBlock.forward
    monkeypatch.setattr(ResidualBlock, "forward", lambda self, *args: used.append(type(self)) or forward(self, *args))
    monkeypatch.setattr("alphabar.generation.pipeline.activation_bytes", lambda *given: 1000)  # by a plain pass
    own = Pipeline(denoiser.requires_grad_(False), SHAPE).with_settings(steps=3)
    own.sample(19)
    assert not settled
    assert set(used) == {ResidualBlock}
    used.clear()
    list(own.stream(list(range(20))))
    assert settled == [60]
    assert set(used) == {FusedResidualBlock}
    used.clear()
    assert own.denoiser is denoiser
    own.sample(2)
    assert set(used) == {ResidualBlock}
    own.with_denoiser(with_way(denoiser, FUSED)).sample(20)  # they are used already
    assert settled == [60]


def test_weights_that_were_rounded_are_settled_on(denoiser, settled):
    rounded = Pipeline(with_way(denoiser.requires_grad_(False), LOW), SHAPE).with_settings(steps=3).rounded()
    rounded.with_settings(steps=4).sample(20)
    assert not settled
    assert fastest_kernels(rounded.denoiser, SHAPE, 10**6) is rounded.denoiser
    assert way_of(in_float32(rounded.denoiser)) == PLAIN


def test_rounded_weights_give_the_same_whether_the_kernels_were_used_before_or_not(denoiser):
    x, t = torch.ones(2, *SHAPE), torch.tensor([0.3, 0.8], dtype=torch.float64)
    pipeline = Pipeline(with_way(denoiser.requires_grad_(False), BOTH), SHAPE)
    first = pipeline.rounded().denoiser(x, t).eps
    pipeline.denoiser(x, t)
    assert torch.equal(pipeline.rounded().denoiser(x, t).eps, first)


def test_weights_that_are_changed_without_a_version_count_in_the_next_sampling(denoiser):
    fused = with_way(denoiser.requires_grad_(False), FUSED)
    pipeline = Pipeline(fused, SHAPE).with_settings(steps=2)
    pipeline.sample(2)
    for p in denoiser.parameters():
        p.data.mul_(1.5)
    fresh = Pipeline(with_way(deepcopy(denoiser), FUSED), SHAPE).with_settings(steps=2)
    assert (pipeline.sample(2).pictures == fresh.sample(2).pictures).all()


def watching(output, graphs):
    """The same output, with a note whether it is part of a graph."""

    def watched(*args):
        found = output(*args)
        graphs.append(found[0].requires_grad)
        return found

    return watched


def test_to_measure_for_sampling_leaves_gradients_alone(denoiser, monkeypatch, tmp_path):
    monkeypatch.setenv("ALPHABAR_CACHE", str(tmp_path / "cache"))
    denoiser.output(torch.ones(2, *SHAPE), 0.5, denoiser.encode({}, 2))[0].sum().backward()
    before = [None if p.grad is None else p.grad.clone() for p in denoiser.parameters()]
    graphs: list[bool] = []
    monkeypatch.setattr(denoiser, "output", watching(denoiser.output, graphs))
    assert settle_sampling(denoiser, SHAPE, 10, "auto")[1] is not None
    assert graphs
    assert not any(graphs)
    assert all(p.requires_grad for p in denoiser.parameters())
    for p, grad in zip(denoiser.parameters(), before, strict=True):
        assert grad is None if p.grad is None else torch.equal(p.grad, grad)


def test_a_network_without_two_forms_is_measured_for_nothing(monkeypatch):
    own = Denoiser(torch.nn.Conv2d(1, 1, 1), TableSchedule(linear_betas(40)))
    monkeypatch.setattr(speed, "measure", lambda *_: pytest.fail("measured"))
    assert settle_sampling(own, SHAPE, 10**6, None)[1] is None


class Counting(nn.Module):
    """A network with a norm that counts batches, and one size of pictures only."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 1, 3, padding=1), nn.BatchNorm2d(1)
        self.place = nn.Parameter(torch.zeros(1, 40, 40))

    def forward(self, x, time, cond):
        if x.shape[1:] != (1, 40, 40):
            raise ValueError("one size only")
        return self.norm(self.conv(x)) + self.place


def test_a_measurement_leaves_buffers_and_takes_networks_of_one_size():
    denoiser = Denoiser(Counting(), TableSchedule(linear_betas(1000))).train()
    before = {name: buffer.clone() for name, buffer in denoiser.named_buffers()}
    seconds = measure(denoiser, (1, 40, 40), [PLAIN, LOW])
    assert math.isfinite(seconds[PLAIN])
    assert speed.seconds_of(denoiser, (1, 40, 40), PLAIN) > 0
    assert all(torch.equal(buffer, before[name]) for name, buffer in denoiser.named_buffers())


def test_large_pictures_are_measured_by_small_ones(denoiser, monkeypatch):
    """Twice as many pixels a side take four times as long; the passes are those of a picture that the budget allows."""
    sizes = []
    original = Result.of

    def watched(denoiser, way, probe):
        sizes.append(tuple(probe.x_t.shape))
        return replace(original(denoiser, way, probe), seconds=float(probe.x_t.numel()))

    monkeypatch.setattr(Result, "of", watched)
    monkeypatch.setattr(speed, "BUDGET", 4.0 * 64 * 64)  # four passes of a picture of 64 x 64
    seconds = measure(denoiser, (1, 128, 128), [PLAIN, LOW])
    assert seconds[PLAIN] == pytest.approx(128 * 128)
    assert max(sizes) == (1, 1, 64, 64)


def test_a_tight_budget_takes_plain_float32(denoiser, monkeypatch):
    monkeypatch.setattr(speed, "BUDGET", 0.0)
    seconds = measure(denoiser, SHAPE, [PLAIN, LOW])
    assert math.isfinite(seconds[PLAIN])
    assert math.isinf(seconds[LOW])


def test_hooks_that_count_are_seen_by_nobody_else(denoiser):
    watched = watchable(denoiser)
    for part in watched.network.modules():
        part.register_forward_hook(lambda module, given, output: pytest.fail("a hook of another user"))
    denoiser.output(torch.zeros(1, *SHAPE), 0.5)


def test_the_memory_of_a_pass_does_not_depend_on_its_kernels(denoiser):
    from alphabar.generation.pipeline import activation_bytes

    cond = denoiser.encode({}, 1)
    plain, fused = (activation_bytes(with_way(denoiser, way), SHAPE, cond) for way in (PLAIN, FUSED))
    assert plain == fused > 1000

"""Which arithmetic computes a network fastest here: measured in a few seconds on the network itself, and kept for the next time.

A way counts only if it gives what plain float32 gives, outputs and gradients, within the rounding of its numbers.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from .. import __version__
from ..diffusion.denoiser import Denoiser
from ..errors import AlphabarError, ConfigurationError, unknown
from ..kernels.build import Unavailable, source_hash
from ..kernels.library import library
from ..kernels.packed import forget_packed
from ..machine import cache_folder, processor
from ..storage import write_json
from .ways import PLAIN, PRECISIONS, Way, has_fused_form, is_rounded, original, way_of, with_way

ROUNDS = 3
BUDGET = 2.0  # seconds of a measurement, whatever the size of the pictures; "auto" may measure two presets
BATCH = 16  # pictures of a pass at most, unless a training's batch is larger
PILOT = 32  # pixels of a side of the pictures that tell how large a pass may be
LONG = 45.0  # seconds of work from which on building the fused kernels is worth its time
MANY_EVALUATIONS = 10_000  # estimates of a picture, likewise
BATCHES = (16, 32, 64, 128)  # that sampling chooses from
WORTHWHILE = 0.95  # of plain float32's time: a way must save this much to be taken
TOLERANCES = {"float32": (1e-4, 1e-4), "bfloat16": (0.05, 0.1)}
"""Relative root mean square errors of output and gradient that a way may have; bfloat16 has about 0.01, float32 about 1e-6."""


@dataclass(frozen=True)
class Choice:
    """The way that was taken, and the seconds of each that was measured: a forward and backward pass of one picture."""

    way: Way
    seconds: Mapping[Way, float]

    @property
    def gain(self) -> float:
        """How many times as fast as plain float32."""
        return self.seconds[PLAIN] / self.seconds[self.way] if self.way in self.seconds else 1.0


def ways(precision: str, kernels: str, fused_allowed: bool) -> list[Way]:
    """All ways that the settings leave open; "auto" leaves both."""
    precisions = ["float32", "bfloat16"] if precision == "auto" else [precision]
    kinds = (["native", "fused"] if fused_allowed else ["native"]) if kernels == "auto" else [kernels]
    return [Way(p, k) for k in kinds for p in precisions]


@dataclass(frozen=True)
class Probe:
    """Random x_t and targets of a measurement. They may be smaller than the pictures: `scale` is how many times as many values those have."""

    x_t: Tensor
    target: Tensor
    scale: float = 1.0

    @classmethod
    def of(cls, device: torch.device, n: int, shape: Sequence[int], whole: Sequence[int]) -> Probe:
        """n items of this shape, in the place of items of the shape `whole`."""
        g = torch.Generator().manual_seed(0)
        x_t, target = (torch.randn(n, *shape, generator=g).to(device) for _ in range(2))
        if len(shape) == 3:
            x_t, target = (x.contiguous(memory_format=torch.channels_last) for x in (x_t, target))
        return cls(x_t, target, math.prod(whole) / math.prod(shape))

    def a_picture(self, seconds: float) -> float:
        """The seconds of a picture from those of a pass."""
        return seconds * self.scale / len(self.x_t)


def pilot(denoiser: Denoiser, shape: Sequence[int]) -> float:
    """A first estimate of the seconds of a picture: by plain float32, of one picture, a small one where the network takes any size."""
    device = next(denoiser.parameters()).device
    small = (shape[0], *(min(side, PILOT) for side in shape[1:]))
    for probed in (small, tuple(shape)):
        probe = Probe.of(device, 1, probed, shape)
        try:
            return probe.a_picture(min(Result.of(denoiser, PLAIN, probe).seconds for _ in range(2)))
        except Exception:  # a network of one size may raise anything for another
            if probed == tuple(shape):
                raise
    raise AssertionError("the loop returns or raises")


def fitting_probe(
    denoiser: Denoiser, shape: Sequence[int], passes: int, a_picture: float, most: int, budget: float
) -> Probe:
    """The largest probe of which so many passes fit into the budget: up to `most` pictures, or a smaller one where one takes too long."""
    device, allowed = next(denoiser.parameters()).device, budget / (passes * a_picture)
    if allowed >= 1 or len(shape) != 3:
        return Probe.of(device, max(1, min(most, int(allowed))), shape, shape)
    sides = [max(min(side, PILOT), int(side * allowed**0.5) // PILOT * PILOT) for side in shape[1:]]
    small = Probe.of(device, 1, (shape[0], *sides), shape)
    try:
        Result.of(denoiser, PLAIN, small)
    except Exception:  # a network of one size may raise anything for another
        return Probe.of(device, 1, shape, shape)
    return small


def choose(
    denoiser: Denoiser,
    shape: Sequence[int],
    candidates: Sequence[Way],
    most: int = BATCH,
    a_picture: float | None = None,
) -> Choice:
    """The fastest of the candidates that agrees with plain float32. What was measured before on this machine is not measured again.

    most: pictures of a pass, as many as there will be in the work if time allows. a_picture: an estimate of its seconds, if there is one.
    """
    if len(candidates) == 1:
        return Choice(candidates[0], {})
    path = cache_folder() / "speed.json"
    known, key = read_measured(path), fingerprint(denoiser, shape, most)
    kept = {name: math.inf if value is None else value for name, value in known.get(key, {}).items()}
    wanted = list(dict.fromkeys([PLAIN, *candidates]))
    if all(str(way) in kept for way in wanted):
        seconds = {way: kept[str(way)] for way in wanted}
    else:  # all of them, as only what was measured in turns can be compared
        seconds = measure(denoiser, shape, wanted, most, a_picture)
        new = {str(way): value if math.isfinite(value) else None for way, value in seconds.items()}
        keep_measured(path, known | {key: known.get(key, {}) | new})
    best = min(candidates, key=lambda way: seconds[way])
    plain = PLAIN if PLAIN in candidates else candidates[0]
    return Choice(best if seconds[best] < WORTHWHILE * seconds[plain] else plain, seconds)


def measure(
    denoiser: Denoiser,
    shape: Sequence[int],
    candidates: Sequence[Way],
    most: int = BATCH,
    a_picture: float | None = None,
) -> dict[Way, float]:
    """Seconds a picture of a forward and backward pass, the least of a few rounds in turns; infinite for ways that fail or disagree.

    It takes about BUDGET seconds: where pictures are large, passes are fewer and of smaller ones. The denoiser and the gradients of its
    parameters stay as they are.
    """
    began, seconds = time.perf_counter(), dict.fromkeys(candidates, math.inf)
    compared = [way for way in candidates if way != PLAIN]
    passes = 1 + len(compared) + len(candidates)
    probe = fitting_probe(denoiser, shape, passes, a_picture or pilot(denoiser, shape), most, BUDGET)
    reference, agreeing = Result.of(denoiser, PLAIN, probe), [way for way in candidates if way == PLAIN]
    seconds |= {way: probe.a_picture(reference.seconds) for way in agreeing}
    for way in compared:
        if time.perf_counter() - began > BUDGET:
            break  # a network of one size on large pictures: what is not measured is not taken
        try:
            result = Result.of(denoiser, way, probe)
        except (RuntimeError, OSError, ImportError, MemoryError):
            continue  # no such numbers on this device, no compiler for the fused kernels, or no memory for them
        agreeing += [way] if result.agrees(reference, way.precision) else []
    for _ in range(ROUNDS):
        if time.perf_counter() - began > BUDGET and all(math.isfinite(seconds[way]) for way in agreeing):
            break
        for way in agreeing:
            seconds[way] = min(seconds[way], probe.a_picture(Result.of(denoiser, way, probe).seconds))
    return seconds


def seconds_of(denoiser: Denoiser, shape: Sequence[int], way: Way, most: int = BATCH) -> float:
    """Seconds a picture of a forward and backward pass in one way, where there is no other to compare it with. Takes half of BUDGET."""
    probe = fitting_probe(denoiser, shape, ROUNDS, pilot(denoiser, shape), most, BUDGET / 2)
    return probe.a_picture(min(Result.of(denoiser, way, probe).seconds for _ in range(ROUNDS)))


def is_trained(module: nn.Module) -> bool:
    """Whether gradients are computed here, and any of its parameters has one."""
    return torch.is_grad_enabled() and any(p.requires_grad for p in module.parameters())


def without_dropout(denoiser: Denoiser) -> Denoiser:
    """A denoiser of `with_way` whose network drops nothing: dropout draws anew in every pass, so that no way would agree with another."""
    for part in denoiser.network.modules():
        if isinstance(part, _DropoutNd):
            part.eval()
    return denoiser


@dataclass(frozen=True)
class Result:
    """Output and gradient of a forward and backward pass, and its seconds."""

    output: Tensor
    gradient: Tensor
    seconds: float

    @classmethod
    def of(cls, denoiser: Denoiser, way: Way, probe: Probe) -> Result:
        """One pass this way over random pictures, at times from 0 to 1; forward only if nothing is trained."""
        buffers = [
            (buffer, buffer.clone()) for buffer in denoiser.buffers()
        ]  # a norm may count the batches that it sees
        denoiser, x_t = without_dropout(with_way(denoiser, way)), probe.x_t
        trained = [p for p in denoiser.parameters() if p.requires_grad] if torch.is_grad_enabled() else []
        t = torch.linspace(0.05, 1, len(x_t), dtype=torch.float64)
        synchronize(x_t.device)
        began = time.perf_counter()
        with torch.set_grad_enabled(bool(trained)):
            output, _ = denoiser.output(x_t, t, denoiser.encode({}, len(x_t)))
            loss = (output - probe.target).square().mean()
            gradients = torch.autograd.grad(loss, trained, allow_unused=True) if trained else ()
        synchronize(x_t.device)
        seconds = time.perf_counter() - began
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        parts = [g.flatten().float() for g in gradients if g is not None]
        return cls(output.detach(), torch.cat([output.new_zeros(0), *parts]), seconds)

    def agrees(self, other: Result, precision: str) -> bool:
        """Whether outputs and gradients are those of the other within TOLERANCES of this precision."""
        pairs = zip((self.output, self.gradient), (other.output, other.gradient), TOLERANCES[precision], strict=True)
        return all(float((a - b).norm()) <= limit * float(b.norm()) for a, b, limit in pairs)


def settle_way(
    denoiser: Denoiser,
    shape: Sequence[int],
    precision: str,
    kernels: str,
    work: Callable[[float], float],
    most: int = BATCH,
) -> Choice:
    """The way to compute: as given, or for "auto" the fastest here.

    work: seconds of a picture -> seconds of all that is to be done. Fused kernels take a while to build, so "auto" looks at them only for
    LONG work, on a CPU, in every precision: which one is faster depends on the kernels. most: pictures of a pass at most. Raises
    ConfigurationError where fused kernels are asked for and cannot be built.
    """
    if kernels == "fused" and (why := fused_fails()):
        raise ConfigurationError(
            f"train.kernels=fused needs a C++ compiler (g++ or clang, or CXX) that works, but {why}; install one, or use native"
        )
    on_cpu = next(denoiser.parameters()).device.type == "cpu"
    if kernels != "auto" or not has_fused_form(denoiser.network) or not on_cpu:
        return choose(denoiser, shape, ways(precision, kernels, fused_allowed=False), most)
    a_picture = pilot(denoiser, shape)
    return choose(denoiser, shape, ways(precision, kernels, work(a_picture) >= LONG), most, a_picture)


@torch.no_grad()
def settle_sampling(
    denoiser: Denoiser, shape: Sequence[int], evaluations: int, precision: str | None
) -> tuple[Denoiser, Choice | None]:
    """The denoiser with precision and kernels for so many estimates of a picture; the choice is None if nothing had to be measured.

    precision: None keeps that of the training, so that the same pictures come out everywhere; "auto" measures. Raises ConfigurationError
    for an unknown precision.
    """
    if precision not in (None, "auto", *PRECISIONS):
        raise unknown("precision", str(precision), ["auto", *PRECISIONS])
    kernels = "auto" if evaluations >= MANY_EVALUATIONS else "native"
    precision = precision or way_of(denoiser).precision
    choice = settle_way(denoiser, shape, precision, kernels, lambda a: evaluations * a)
    return with_way(denoiser, choice.way), choice if choice.seconds else None


def fastest_kernels(denoiser: Denoiser, shape: Sequence[int], evaluations: int) -> Denoiser:
    """The denoiser with the kernels that are fastest here for so many estimates of a picture, if that is long work.

    One that uses fused kernels already, and one of rounded weights, is returned as it is.
    """
    forget_packed()  # transformed weights do not see changes that were made through .data
    if evaluations < MANY_EVALUATIONS or way_of(denoiser).kernels == "fused" or is_rounded(denoiser):
        return denoiser
    return settle_sampling(denoiser, shape, evaluations, None)[0]


@torch.no_grad()
def fastest_batch(denoiser: Denoiser, shape: Sequence[int], most: int) -> int:
    """The one of BATCHES, none above `most`, at which the estimate of a picture takes least here, as the network is computed now.

    What was measured before on this machine is not measured again.
    """
    candidates = [batch for batch in BATCHES if batch <= most]
    if len(candidates) < 2:
        return most
    path, way = cache_folder() / "speed.json", way_of(denoiser)
    known, key = read_measured(path), fingerprint(denoiser, shape)
    names = {batch: f"batch {batch}, {way}" for batch in candidates}
    seconds = {batch: known.get(key, {}).get(name) for batch, name in names.items()}
    if None in seconds.values():
        seconds = measure_batches(denoiser, shape, candidates)
        keep_measured(
            path, known | {key: known.get(key, {}) | {names[batch]: value for batch, value in seconds.items()}}
        )
    return min(candidates, key=lambda batch: seconds[batch] or math.inf)


def measure_batches(denoiser: Denoiser, shape: Sequence[int], candidates: Sequence[int]) -> dict[int, float | None]:
    """Seconds of an estimate of a picture in batches of each size, the least of a few rounds in turns."""
    device, seconds = next(denoiser.parameters()).device, dict.fromkeys(candidates, math.inf)
    for _ in range(ROUNDS):
        for batch in candidates:
            x_t, t = torch.randn(batch, *shape, device=device), torch.linspace(0.05, 1, batch, dtype=torch.float64)
            synchronize(device)
            began = time.perf_counter()
            denoiser.output(x_t, t, denoiser.encode({}, batch))
            synchronize(device)
            seconds[batch] = min(seconds[batch], (time.perf_counter() - began) / batch)
    return dict(seconds)


def fused_fails() -> str:
    """Why the fused kernels cannot be built here; "" where they can."""
    try:
        library()
    except Unavailable as error:
        return str(error)
    return ""


def fingerprint(denoiser: Denoiser, shape: Sequence[int], most: int = BATCH) -> str:
    """What the measurement depends on: this version and its kernels, processor, torch, threads, device, batch, and every part of the network."""
    modules = [*original(denoiser.network).modules(), *denoiser.encoders.modules()]
    parts = [(type(m).__name__, [tuple(p.shape) for p in m.parameters(recurse=False)]) for m in modules]
    device = next(denoiser.parameters()).device
    dependencies: list[Any] = [
        __version__,
        source_hash(),
        processor(),
        torch.__version__,
        torch.get_num_threads(),
        str(device),
        is_trained(denoiser),
        tuple(shape),
        most,
        parts,
        getattr(denoiser.network, "settings", None),
    ]
    return hashlib.sha256(repr(dependencies).encode()).hexdigest()[:16]


def read_measured(path: Path) -> dict[str, dict[str, float | None]]:
    """What is kept; {} if there is nothing or it is damaged, as it can be measured again."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    known = isinstance(content, dict) and all(isinstance(entry, dict) for entry in content.values())
    if not known or not all(v is None or isinstance(v, float) for entry in content.values() for v in entry.values()):
        return {}
    return dict(content)


def keep_measured(path: Path, known: Mapping[str, Mapping[str, float | None]]) -> None:
    """Write it down, if it can be written: a cache that cannot be kept is no reason to stop."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {key: dict(value) for key, value in known.items()})
    except (OSError, AlphabarError):
        return


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()

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

from .. import __version__
from ..diffusion.denoiser import Denoiser
from ..errors import AlphabarError, ConfigurationError, unknown
from ..kernels.build import Unavailable, source_hash
from ..kernels.library import library
from ..kernels.packed import forget_packed
from ..machine import cache_folder, processor
from ..storage import write_json
from .ways import PRECISIONS, Way, has_fused_form, is_rounded, original, way_of, with_way

ROUNDS = 3
BATCH, PIXELS = 16, 16 * 64 * 64  # pictures of a measurement, fewer of large ones
LONG = 45.0  # seconds of work from which on building the fused kernels is worth its time
MANY_EVALUATIONS = 10_000  # estimates of a picture, likewise
BATCHES = (16, 32, 64, 128)  # that sampling chooses from
WORTHWHILE = 0.95  # of plain float32's time: a way must save this much to be taken
TOLERANCES = {"float32": (1e-4, 1e-4), "bfloat16": (0.05, 0.1)}
"""Relative root mean square errors of output and gradient that a way may have; bfloat16 has about 0.01, float32 about 1e-6."""


PLAIN = Way()


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
    found = (["native", "fused"] if fused_allowed else ["native"]) if kernels == "auto" else [kernels]
    return [Way(p, k) for k in found for p in precisions]


def choose(denoiser: Denoiser, shape: Sequence[int], candidates: Sequence[Way]) -> Choice:
    """The fastest of the candidates that agrees with plain float32. What was measured before on this machine is not measured again."""
    if len(candidates) == 1:
        return Choice(candidates[0], {})
    path = cache_folder() / "speed.json"
    known, key = read_measured(path), fingerprint(denoiser, shape)
    kept = {name: math.inf if value is None else value for name, value in known.get(key, {}).items()}
    wanted = list(dict.fromkeys([PLAIN, *candidates]))
    if all(str(way) in kept for way in wanted):
        seconds = {way: kept[str(way)] for way in wanted}
    else:  # all of them, as only what was measured in turns can be compared
        seconds = measure(denoiser, shape, wanted)
        found = {str(way): value if math.isfinite(value) else None for way, value in seconds.items()}
        keep_measured(path, known | {key: known.get(key, {}) | found})
    best = min(candidates, key=lambda way: seconds[way])
    plain = PLAIN if PLAIN in candidates else candidates[0]
    return Choice(best if seconds[best] < WORTHWHILE * seconds[plain] else plain, seconds)


def measure(denoiser: Denoiser, shape: Sequence[int], candidates: Sequence[Way]) -> dict[Way, float]:
    """Seconds a picture of a forward and backward pass, the least of a few rounds in turns; infinite for ways that fail or disagree.

    The denoiser and the gradients of its parameters stay as they are.
    """
    n, inputs = measured_inputs(next(denoiser.parameters()).device, shape)
    seconds = dict.fromkeys(candidates, math.inf)
    agreeing, reference = [], Result.of(denoiser, PLAIN, *inputs)
    for way in candidates:
        try:
            agrees = way == PLAIN or Result.of(denoiser, way, *inputs).agrees(reference, way.precision)
        except (RuntimeError, OSError, ImportError, MemoryError):
            agrees = False  # no such numbers on this device, no compiler for the fused kernels, or no memory for them
        agreeing += [way] if agrees else []
    for _ in range(ROUNDS):
        for way in agreeing:
            seconds[way] = min(seconds[way], Result.of(denoiser, way, *inputs).seconds / n)
    return seconds


def measured_inputs(device: torch.device, shape: Sequence[int]) -> tuple[int, list[Tensor]]:
    """The number of pictures of a measurement; random x_t and targets."""
    g = torch.Generator().manual_seed(0)
    n = max(1, min(BATCH, PIXELS // math.prod(shape[1:])))
    inputs = [torch.randn(n, *shape, generator=g).to(device) for _ in range(2)]
    if len(shape) == 3:
        inputs = [x.contiguous(memory_format=torch.channels_last) for x in inputs]
    return n, inputs


def is_trained(module: nn.Module) -> bool:
    """Whether gradients are computed here, and any of its parameters has one."""
    return torch.is_grad_enabled() and any(p.requires_grad for p in module.parameters())


def without_dropout(denoiser: Denoiser) -> Denoiser:
    """A denoiser of `with_way` whose network drops nothing: dropout draws anew in every pass, so that no way would agree with another."""
    for part in denoiser.network.modules():
        if isinstance(part, nn.Dropout):
            part.eval()
    return denoiser


@dataclass(frozen=True)
class Result:
    """Output and gradient of a forward and backward pass, and its seconds."""

    output: Tensor
    gradient: Tensor
    seconds: float

    @classmethod
    def of(cls, denoiser: Denoiser, way: Way, x_t: Tensor, target: Tensor) -> Result:
        """One pass this way over random pictures, at times from 0 to 1; forward only if nothing is trained."""
        denoiser = without_dropout(with_way(denoiser, way))
        trained = [p for p in denoiser.parameters() if p.requires_grad] if torch.is_grad_enabled() else []
        t = torch.linspace(0.05, 1, len(x_t), dtype=torch.float64)
        synchronize(x_t.device)
        began = time.perf_counter()
        with torch.set_grad_enabled(bool(trained)):
            output, _ = denoiser.output(x_t, t, denoiser.encode({}, len(x_t)))
            loss = (output - target).square().mean()
            gradients = torch.autograd.grad(loss, trained, allow_unused=True) if trained else ()
        synchronize(x_t.device)
        seconds = time.perf_counter() - began
        parts = [g.flatten().float() for g in gradients if g is not None]
        return cls(output.detach(), torch.cat([output.new_zeros(0), *parts]), seconds)

    def agrees(self, other: Result, precision: str) -> bool:
        """Whether outputs and gradients are those of the other within TOLERANCES of this precision."""
        pairs = zip((self.output, self.gradient), (other.output, other.gradient), TOLERANCES[precision], strict=True)
        return all(float((a - b).norm()) <= limit * float(b.norm()) for a, b, limit in pairs)


def settle_way(
    denoiser: Denoiser, shape: Sequence[int], precision: str, kernels: str, work: Callable[[float], float]
) -> Choice:
    """The way to compute: as given, or for "auto" the fastest here.

    work: seconds of a picture -> seconds of all that is to be done. Fused kernels take a while to build, so "auto" looks at them only for
    LONG work, on a CPU, in every precision: which one is faster depends on the kernels. Raises ConfigurationError where they are asked
    for and cannot be built.
    """
    if kernels == "fused" and (why := fused_fails()):
        raise ConfigurationError(
            f"train.kernels=fused needs a C++ compiler (g++ or clang, or CXX) that works, but {why}; install one, or use native"
        )
    choice = choose(denoiser, shape, ways(precision, kernels, fused_allowed=False))
    if kernels != "auto" or not has_fused_form(denoiser.network) or next(denoiser.parameters()).device.type != "cpu":
        return choice
    a_picture = choice.seconds.get(choice.way) or measure(denoiser, shape, [choice.way])[choice.way]
    if work(a_picture) < LONG:
        return choice
    return choose(denoiser, shape, ways(precision, kernels, fused_allowed=True))


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
            path, known | {key: known.get(key, {}) | {names[batch]: found for batch, found in seconds.items()}}
        )
    return min(candidates, key=lambda batch: seconds[batch] or math.inf)


def measure_batches(denoiser: Denoiser, shape: Sequence[int], candidates: Sequence[int]) -> dict[int, float | None]:
    """Seconds of an estimate of a picture in batches of each size, the least of a few rounds in turns."""
    device, found = next(denoiser.parameters()).device, dict.fromkeys(candidates, math.inf)
    for _ in range(ROUNDS):
        for batch in candidates:
            x_t, t = torch.randn(batch, *shape, device=device), torch.linspace(0.05, 1, batch, dtype=torch.float64)
            synchronize(device)
            began = time.perf_counter()
            denoiser.output(x_t, t, denoiser.encode({}, batch))
            synchronize(device)
            found[batch] = min(found[batch], (time.perf_counter() - began) / batch)
    return dict(found)


def fused_works() -> bool:
    """Whether the fused kernels can be built here."""
    return not fused_fails()


def fused_fails() -> str:
    """Why the fused kernels cannot be built here; "" where they can."""
    try:
        library()
    except Unavailable as error:
        return str(error)
    return ""


def fingerprint(denoiser: Denoiser, shape: Sequence[int]) -> str:
    """What the measurement depends on: this version and its kernels, processor, torch, threads, device, and every part of the network."""
    modules = [*original(denoiser.network).modules(), *denoiser.encoders.modules()]
    parts = [(type(m).__name__, [tuple(p.shape) for p in m.parameters(recurse=False)]) for m in modules]
    device = next(denoiser.parameters()).device
    found: list[Any] = [
        __version__,
        source_hash(),
        processor(),
        torch.__version__,
        torch.get_num_threads(),
        str(device),
        is_trained(denoiser),
        tuple(shape),
        parts,
        getattr(denoiser.network, "settings", None),
    ]
    return hashlib.sha256(repr(found).encode()).hexdigest()[:16]


def read_measured(path: Path) -> dict[str, dict[str, float | None]]:
    """What is kept; {} if there is nothing or it is damaged, as it can be measured again."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    known = isinstance(found, dict) and all(isinstance(entry, dict) for entry in found.values())
    if not known or not all(v is None or isinstance(v, float) for entry in found.values() for v in entry.values()):
        return {}
    return dict(found)


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

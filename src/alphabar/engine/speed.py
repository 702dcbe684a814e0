"""Which arithmetic computes a network fastest here: measured in a few seconds on the network itself, and kept for the next time.

A way counts only if it gives what plain float32 gives, outputs and gradients, within the rounding of its numbers.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import __version__
from ..diffusion.denoiser import PRECISIONS, Denoiser
from ..errors import AlphabarError, ConfigurationError, unknown
from ..kernels.native import Unavailable, forget_kept, library, source_hash
from ..machine import cache_folder, processor
from ..storage import write_json

ROUNDS = 3
BATCH, PIXELS = 16, 16 * 64 * 64  # pictures of a measurement, fewer of large ones
LONG = 45.0  # seconds of work from which on building the fused kernels is worth its time
MANY_EVALUATIONS = 10_000  # estimates of a picture, likewise
BATCHES = (16, 32, 64, 128)  # that sampling chooses from
WORTHWHILE = 0.95  # of plain float32's time: a way must save this much to be taken
OUTPUT_ERROR, GRADIENT_ERROR = 0.05, 0.1  # relative root mean square; bfloat16 has about 0.01


@dataclass(frozen=True)
class Way:
    """How a network is computed: the precision of its products, and whether by torch's own kernels or the fused ones."""

    precision: str = "float32"
    kernels: str = "native"

    def __str__(self) -> str:
        return self.precision + (", fused kernels" if self.kernels == "fused" else "")


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
    """Seconds a picture of a forward and backward pass, the least of a few rounds in turns; infinite for what fails or disagrees."""
    before = denoiser.precision, denoiser.fused
    g = torch.Generator().manual_seed(0)
    device = next(denoiser.parameters()).device
    n = max(1, min(BATCH, PIXELS // math.prod(shape[1:])))
    inputs = [torch.randn(n, *shape, generator=g).to(device) for _ in range(2)]
    if len(shape) == 3:
        inputs = [x.contiguous(memory_format=torch.channels_last) for x in inputs]
    seconds = dict.fromkeys(candidates, math.inf)
    with without_dropout(denoiser):
        agreeing, reference = [], Result.of(denoiser, PLAIN, *inputs)
        for way in candidates:
            try:
                agrees = way == PLAIN or Result.of(denoiser, way, *inputs).agrees(reference)
            except (RuntimeError, OSError, ImportError):
                agrees = False  # no such numbers on this device, or no compiler for the fused kernels
            agreeing += [way] if agrees else []
        for _ in range(ROUNDS):
            for way in agreeing:
                seconds[way] = min(seconds[way], Result.of(denoiser, way, *inputs).seconds / n)
    denoiser.precision = before[0]
    denoiser.use_fused(before[1])
    if is_trained(denoiser):
        denoiser.zero_grad(set_to_none=True)
    return seconds


def is_trained(module: nn.Module) -> bool:
    """Whether any of its parameters has a gradient."""
    return any(p.requires_grad for p in module.parameters())


@contextmanager
def not_trained(module: nn.Module) -> Iterator[None]:
    """Nothing is trained meanwhile, and gradients stay what they are."""
    trained = [p for p in module.parameters() if p.requires_grad]
    for p in trained:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in trained:
            p.requires_grad_(True)


@contextmanager
def without_dropout(module: nn.Module) -> Iterator[None]:
    """Dropout draws anew in every pass, so that no way would agree with any other."""
    active = [m for m in module.modules() if isinstance(m, nn.Dropout) and m.training]
    for m in active:
        m.eval()
    try:
        yield
    finally:
        for m in active:
            m.train()


@dataclass(frozen=True)
class Result:
    """What a forward and backward pass gave, and in how many seconds."""

    output: Tensor
    gradient: Tensor
    seconds: float

    @classmethod
    def of(cls, denoiser: Denoiser, way: Way, x_t: Tensor, target: Tensor) -> Result:
        """One pass this way over random pictures, at times from 0 to 1; forward only if nothing is trained."""
        denoiser.precision = PRECISIONS[way.precision]
        denoiser.use_fused(way.kernels == "fused")
        trained = is_trained(denoiser)
        if trained:
            denoiser.zero_grad(set_to_none=True)
        t = torch.linspace(0.05, 1, len(x_t), dtype=torch.float64)
        synchronize(x_t.device)
        began = time.perf_counter()
        with torch.set_grad_enabled(trained):
            output, _ = denoiser.output(x_t, t, denoiser.encode({}, len(x_t)))
            if trained:
                (output - target).square().mean().backward()
        synchronize(x_t.device)
        seconds = time.perf_counter() - began
        learning = [p for p in denoiser.network.parameters() if p.requires_grad]
        gradients = [p.grad.flatten().float() for p in learning if p.grad is not None]
        return cls(output.detach(), torch.cat([output.new_zeros(0), *gradients]), seconds)

    def agrees(self, other: Result) -> bool:
        """Whether outputs and gradients are those of the other but for rounding."""
        pairs = ((self.output, other.output, OUTPUT_ERROR), (self.gradient, other.gradient, GRADIENT_ERROR))
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
    has_both = any(hasattr(part, "fused") for part in denoiser.network.modules())
    if kernels != "auto" or not has_both or next(denoiser.parameters()).device.type != "cpu":
        return choice
    a_picture = choice.seconds.get(choice.way) or measure(denoiser, shape, [choice.way])[choice.way]
    if work(a_picture) < LONG:
        return choice
    return choose(denoiser, shape, ways(precision, kernels, fused_allowed=True))


def settle_sampling(denoiser: Denoiser, shape: Sequence[int], evaluations: int, precision: str | None) -> Choice | None:
    """Set precision and kernels for so many estimates of a picture; None if nothing had to be measured.

    precision: None keeps that of the training, so that the same pictures come out everywhere; "auto" measures. Raises ConfigurationError
    for an unknown precision.
    """
    if precision not in (None, "auto", *PRECISIONS):
        raise unknown("precision", str(precision), ["auto", *PRECISIONS])
    kernels = "auto" if evaluations >= MANY_EVALUATIONS else "native"
    with not_trained(denoiser):
        choice = settle_way(denoiser, shape, precision or denoiser.precision_name, kernels, lambda a: evaluations * a)
    denoiser.precision = PRECISIONS[choice.way.precision]
    denoiser.use_fused(choice.way.kernels == "fused")
    return choice if choice.seconds else None


@contextmanager
def fastest_kernels(denoiser: Denoiser, shape: Sequence[int], evaluations: int) -> Iterator[None]:
    """For so many estimates of a picture, if that is long work, the kernels that are fastest here; afterwards those of before.

    Fused kernels that are on already, and weights that were rounded, are left as they are.
    """
    before = denoiser.fused
    forget_kept()  # what was made of frozen weights does not see what was done to them through .data
    if evaluations >= MANY_EVALUATIONS and not before and not denoiser.frozen:
        settle_sampling(denoiser, shape, evaluations, None)
    try:
        yield
    finally:
        denoiser.use_fused(before)


@torch.no_grad()
def fastest_batch(denoiser: Denoiser, shape: Sequence[int], most: int) -> int:
    """The one of BATCHES, none above `most`, at which the estimate of a picture takes least here, as the network is computed now.

    What was measured before on this machine is not measured again.
    """
    candidates = [batch for batch in BATCHES if batch <= most]
    if len(candidates) < 2:
        return most
    path, way = cache_folder() / "speed.json", Way(denoiser.precision_name, "fused" if denoiser.fused else "native")
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
    parts = [(type(m).__name__, [tuple(p.shape) for p in m.parameters(recurse=False)]) for m in denoiser.modules()]
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

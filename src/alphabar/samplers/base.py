"""The loop that all samplers share, as a generator of states."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from ..diffusion.denoiser import DenoiserLike
from ..diffusion.parameterization import Prediction
from ..errors import ConfigurationError
from ..randomness import normal_rows


class Noise(Protocol):
    """Draws z ~ N(0, I) of the batch's shape for the step at hand; another `stream` gives another draw."""

    def __call__(self, stream: str = "sample") -> Tensor:
        """z (N, ...)."""


@dataclass(frozen=True)
class Visit:
    """Where a method has been: at time t with x_t, and what the denoiser said of it."""

    t: Tensor
    x_t: Tensor
    said: Prediction


@dataclass(frozen=True)
class SampleState:
    """Where a batch stands after `step` of `steps` reverse steps: at time t, with the picture x_t and the estimate x_0_hat."""

    step: int
    steps: int
    t: float
    x_t: Tensor
    x_0_hat: Tensor


class Sampler(ABC):
    """A method that goes from x_t to x_s along the process; usually s < t.

    order: the global order of its error, with starting values of that order, on a grid uniform in `variable` ("log_snr", or
    "sigma" = b / a). start_order: the same with its own start-up. memory: how many earlier visits a step looks at.
    calls: network calls of a step. stochastic: whether it draws noise.
    """

    order: int = 1
    start_order: int = 1
    memory: int = 0
    variable: ClassVar[str] = "log_snr"
    calls: ClassVar[int] = 1
    stochastic: bool = False

    @abstractmethod
    def step(
        self, denoiser: DenoiserLike, x_t: Tensor, t: Tensor, s: Tensor, noise: Noise, past: Sequence[Visit] = ()
    ) -> tuple[Tensor, Visit]:
        """x_s from x_t (N, ...), and the visit of t that later steps may look at; t and s are float64 scalars.

        past: earlier visits, the newest first, at most `memory` of them.
        """


def walk(
    sampler: Sampler, denoiser: DenoiserLike, x: Tensor, times: Tensor, noise: Callable[[int], Noise]
) -> Iterator[SampleState]:
    """From x (N, ...) at times[0] along `times` (K + 1,), yielding the start and every state after it. noise(i): of step i.

    The caller may stop at any state; gradients are never recorded.
    """
    steps = len(times) - 1
    past: list[Visit] = []
    yield SampleState(0, steps, float(times[0]), x, torch.zeros_like(x))
    for i, (t, s) in enumerate(pairwise(times), start=1):
        with torch.no_grad():
            x, visit = sampler.step(denoiser, x, t, s, noise(i), past)
        past = [visit, *past][: sampler.memory]
        yield SampleState(i, steps, float(s), x, visit.said.x_0)


def sample_states(
    sampler: Sampler,
    denoiser: DenoiserLike,
    times: Tensor,
    seeds: Sequence[int],
    shape: Sequence[int],
    device: torch.device | str = "cpu",
) -> Iterator[SampleState]:
    """Draw x_1 ~ N(0, I) of `shape` for each seed and walk along `times`.

    A sample's noise is a function of its own seed and of the step, so it is the same in any batch.
    """
    noise = seeded_noises(seeds, shape, device)
    return walk(sampler, denoiser, noise(0)(), times, noise)


def last_state(states: Iterator[SampleState]) -> SampleState:
    """Run a sampler to its end and return the final state. Raises ConfigurationError if it has been run already."""
    last = None
    for state in states:  # not [*states]: only one state is kept alive
        last = state
    if last is None:
        raise ConfigurationError("these steps have been gone already; plan them again")
    return last


def seeded_noises(
    seeds: Sequence[int], shape: Sequence[int], device: torch.device | str = "cpu"
) -> Callable[[int], Noise]:
    """The noise of each step: z (len(seeds), *shape) ~ N(0, I), each row keyed by its own seed, the stream and the step."""

    def of_step(step: int) -> Noise:
        def noise(stream: str = "sample") -> Tensor:
            return normal_rows(shape, [(seed, stream, step) for seed in seeds]).to(device)

        return noise

    return of_step

"""The loop that all samplers share, as a generator of states."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ..conditions.base import Cond
from ..denoiser import DenoiserLike
from ..randomness import normal_rows

Noise = Callable[[], Tensor]


@dataclass(frozen=True)
class SampleState:
    """Where a batch stands after `step` of `steps` reverse steps: at time t, with the picture x_t and the estimate x_0_hat."""

    step: int
    steps: int
    t: float
    x_t: Tensor
    x_0_hat: Tensor


class Sampler(ABC):
    """A method that goes from x_t to x_s, s < t."""

    @abstractmethod
    def step(
        self, denoiser: DenoiserLike, x_t: Tensor, t: Tensor, s: Tensor, cond: Cond | None, noise: Noise
    ) -> tuple[Tensor, Tensor]:
        """(x_s, x_0_hat) from x_t (N, ...); t and s are float64 scalars, noise() draws z ~ N(0, I) of x_t's shape."""


def sample_states(
    sampler: Sampler,
    denoiser: DenoiserLike,
    times: Tensor,
    seeds: Sequence[int],
    shape: Sequence[int],
    cond: Cond | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[SampleState]:
    """Draw x_1 ~ N(0, I) of `shape` for each seed and step along `times`, yielding the start and every state after it.

    A sample's noise is a function of its own seed and of the step, so it is the same in any batch.
    The caller may stop at any state; gradients are never recorded.
    """
    steps = len(times) - 1
    x = seeded_noise(seeds, shape, 0).to(device)
    yield SampleState(0, steps, float(times[0]), x, torch.zeros_like(x))
    for i, (t, s) in enumerate(pairwise(times), start=1):
        with torch.no_grad():
            x, x_0_hat = sampler.step(denoiser, x, t, s, cond, lambda i=i: seeded_noise(seeds, shape, i).to(device))  # type: ignore[misc]
        yield SampleState(i, steps, float(s), x, x_0_hat)


def last_state(states: Iterator[SampleState]) -> SampleState:
    """Run a sampler to its end and return the final state."""
    for state in states:  # not [*states]: only one state is kept alive
        last = state
    return last


def seeded_noise(seeds: Sequence[int], shape: Sequence[int], step: int) -> Tensor:
    """z (len(seeds), *shape) ~ N(0, I) for one step, each row keyed by its own seed."""
    return normal_rows(shape, [(seed, "sample", step) for seed in seeds])

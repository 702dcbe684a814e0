"""How training draws its times: uniform, stratified over the batch, where a cosine schedule has them, or in proportion to past loss.

For a table the times are the grid points k / T, k = 1..T; a continuous schedule takes any t in (0, 1].
Draws are a function of (seed, step) and of the state that is saved with a checkpoint.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from ..diffusion.schedule import Schedule
from ..errors import unknown
from ..randomness import permutation, uniform


def to_grid(u: Tensor, schedule: Schedule) -> Tensor:
    """u in [0, 1) -> t: k / T with k = floor(u T) + 1 for a table, 1 - u otherwise. Float64."""
    return 1 - u if schedule.steps is None else ((u * schedule.steps).floor() + 1) / schedule.steps


class TimeSampler(ABC):
    """Draws times and weights such that the weighted mean loss estimates the mean over uniform times (but for `Cosine`)."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    @abstractmethod
    def draw(self, n: int, seed: int, step: int) -> tuple[Tensor, Tensor]:
        """(t, weight), each (n,) float64 on the CPU."""

    def update(self, t: Tensor, loss: Tensor) -> None:  # noqa: B027  (most samplers learn nothing)
        """Take in the losses (n,) that these times gave."""

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint must keep."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:  # noqa: B027
        """Take back what a checkpoint kept."""


class Uniform(TimeSampler):
    """Every picture draws its own t, independently (Ho et al. 2020, algorithm 1)."""

    def draw(self, n: int, seed: int, step: int) -> tuple[Tensor, Tensor]:
        """Uniform times, weights 1."""
        return to_grid(uniform([n], seed, "times", step), self.schedule), torch.ones(n, dtype=torch.float64)


class Stratified(TimeSampler):
    """One t in each of n equal parts of the range, dealt to the batch at random: u = (i + u_i) / n (Kingma et al. 2021, app. I.1)."""

    def draw(self, n: int, seed: int, step: int) -> tuple[Tensor, Tensor]:
        """Stratified times, weights 1."""
        strata = torch.from_numpy(permutation(n, seed, "strata", step))
        return to_grid((strata + uniform([n], seed, "times", step)) / n, self.schedule), torch.ones(
            n, dtype=torch.float64
        )


class Cosine(TimeSampler):
    """log-SNR = -2 log tan(pi u / 2), u uniform: the noise levels that a cosine schedule draws, whatever the schedule is.

    More of the training goes to the middle noise levels, where the shape of things is decided; a linear schedule draws half of its times
    where hardly anything is left to see. The weights stay 1, so unlike the others it estimates another mean: that over these levels.
    Source: the distribution of Nichol & Dhariwal 2021, eq. 17, in the form of Hoogeboom et al. 2023, eq. 4; separating it from the
    schedule as in Karras et al. 2022, sec. 5.
    """

    def draw(self, n: int, seed: int, step: int) -> tuple[Tensor, Tensor]:
        """Times at which the schedule has these log-SNRs, on its grid, weights 1; one u in each of n equal parts of (0, 1)."""
        strata = torch.from_numpy(permutation(n, seed, "strata", step))
        u = (strata + uniform([n], seed, "times", step)) / n
        t = self.schedule.time(-2 * torch.log(torch.tan(math.pi / 2 * u)))
        steps = self.schedule.steps
        t = t.clamp(min=1e-4) if steps is None else (t * steps).round().clamp(min=1) / steps
        return t, torch.ones(n, dtype=torch.float64)


class Importance(TimeSampler):
    """p(t) proportional to sqrt(E[L_t^2]) over the last `history` losses of each t, weights 1 / (p(t) T).

    Uniform until every t has its history; a share `floor` of p stays uniform (Nichol & Dhariwal 2021, sec. 3.3, eq. 18).
    A continuous schedule is divided into 100 parts.
    """

    def __init__(self, schedule: Schedule, history: int = 10, floor: float = 1e-3) -> None:
        super().__init__(schedule)
        self.bins, self.floor = schedule.steps or 100, floor
        self.losses = torch.zeros(self.bins, history, dtype=torch.float64)
        self.counts = torch.zeros(self.bins, dtype=torch.int64)

    def probabilities(self) -> Tensor:
        """p of each bin, (bins,), summing to 1."""
        p = self.losses.square().mean(1).sqrt()
        if bool((self.counts < self.losses.shape[1]).any()) or float(p.sum()) == 0:
            return torch.full_like(p, 1 / self.bins)
        return (1 - self.floor) * p / p.sum() + self.floor / self.bins

    def draw(self, n: int, seed: int, step: int) -> tuple[Tensor, Tensor]:
        """Times by the inverse of the cumulated p, weights 1 / (p bins)."""
        p = self.probabilities()
        u = uniform([n], seed, "times", step)
        k = torch.searchsorted(p.cumsum(0), u, right=True).clamp(max=self.bins - 1)
        inside = uniform([n], seed, "within", step)
        return to_grid((k + inside) / self.bins, self.schedule), 1 / (p[k] * self.bins)

    def update(self, t: Tensor, loss: Tensor) -> None:
        """Push each loss into the history of its bin, the oldest out."""
        bins = ((1 - t) * self.bins).floor() if self.schedule.steps is None else (t * self.bins).round() - 1
        bins = bins.long().clamp(0, self.bins - 1)
        for k, value in zip(bins.tolist(), loss.double().tolist(), strict=True):
            self.losses[k] = torch.cat([self.losses[k, 1:], self.losses.new_tensor([value])])
            self.counts[k] = min(int(self.counts[k]) + 1, self.losses.shape[1])

    def state_dict(self) -> dict[str, Tensor]:
        """The history."""
        return {"losses": self.losses, "counts": self.counts}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """The history."""
        self.losses, self.counts = state["losses"].clone(), state["counts"].clone()


TIME_SAMPLERS: dict[str, type[TimeSampler]] = {
    "uniform": Uniform,
    "stratified": Stratified,
    "cosine": Cosine,
    "importance": Importance,
}


def build_time_sampler(kind: str, schedule: Schedule) -> TimeSampler:
    """The sampler of this name."""
    if kind not in TIME_SAMPLERS:
        raise unknown("loss.times", kind, TIME_SAMPLERS)
    return TIME_SAMPLERS[kind](schedule)

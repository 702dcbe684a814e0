"""Time grids: the times that a sampler visits, from noise down to 0 (data)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..diffusion.schedule import Schedule
from ..errors import ConfigurationError, unknown
from .coordinates import half_log_snr, sigma, time_at

LEAST_TIME = 1e-3  # the last time before 0 where no table gives one
FEW = (
    30.0,
    0.05,
)  # sigma between which the steps of the grid "few" are spread; for pictures in [-1, 1], found at 10 steps (benchmarks/RESULTS.md)


def time_grid(name: str, schedule: Schedule, steps: int) -> Tensor:
    """steps + 1 falling times, float64, the last one 0. Raises ConfigurationError for an unknown name and a count that cannot be."""
    if name not in GRIDS:
        raise unknown("grid", name, GRIDS)
    if steps < 1:
        raise ConfigurationError(f"sampling needs at least 1 step, got {steps}")
    if schedule.steps is not None and steps > schedule.steps:
        raise ConfigurationError(
            f"the model was trained with T = {schedule.steps} steps, so at most {schedule.steps} can be taken; got {steps}"
        )
    return GRIDS[name](schedule, steps)


def trailing_times(schedule: Schedule, steps: int) -> Tensor:
    """Evenly strided from 1, where the start is pure noise (Lin et al. 2024, sec. 3.3). For a table they are points of its grid."""
    fractions = torch.arange(steps, -1, -1, dtype=torch.float64) / steps
    return fractions if schedule.steps is None else (fractions * schedule.steps).round() / schedule.steps


def leading_times(schedule: Schedule, steps: int) -> Tensor:
    """Every (T // steps)-th step of the table, from step 1 up: it starts below t = 1. For comparison with older code."""
    total = _table_steps("leading", schedule)
    return _to_data(torch.arange(steps - 1, -1, -1, dtype=torch.float64) * (total // steps) + 1) / total


def linspace_times(schedule: Schedule, steps: int) -> Tensor:
    """Evenly spaced from T to 1, both there, rounded to steps of the table. One step starts at step 1. For comparison with older code."""
    total = _table_steps("linspace", schedule)
    return _to_data((torch.linspace(0, total - 1, steps, dtype=torch.float64).round() + 1).flip(0)) / total


def quadratic_times(schedule: Schedule, steps: int) -> Tensor:
    """sqrt(t) evenly spaced from 1 to the least time: denser next to the data (Song et al. 2021a, app. D.2)."""
    return _to_data(_between(1.0, least_time(schedule) ** 0.5, steps) ** 2)


def log_snr_times(schedule: Schedule, steps: int) -> Tensor:
    """The log-SNR evenly spaced from that of t = 1 to that of the least time (Lu et al. 2022a, sec. 3.4)."""
    noisy, clean = (half_log_snr(schedule, t) for t in (_noisiest(schedule), least_time(schedule)))
    return _from_noise(time_at(schedule, _between(noisy, clean, steps)))


def karras_times(schedule: Schedule, steps: int) -> Tensor:
    """sigma^(1 / 7) evenly spaced, sigma = b / a, from that of t = 1 to that of the least time (Karras et al. 2022, eq. 5)."""
    noisy, clean = (sigma(schedule, t) ** (1 / 7) for t in (_noisiest(schedule), least_time(schedule)))
    return _from_noise(time_at(schedule, -7 * _between(noisy, clean, steps).log()))


def few_times(schedule: Schedule, steps: int) -> Tensor:
    """sigma^(1 / 5) evenly spaced from 30 to 0.05: for few steps, none of them spent on noise that hides all or that cannot be seen.

    As `karras_times` with other ends and another exponent. A schedule whose most noise is below 30 is spread from there to 1 / 600 of it;
    none goes below its own least time.
    """
    noisy, clean = (sigma(schedule, t) for t in (_noisiest(schedule), least_time(schedule)))
    noisy = noisy.clamp(max=FEW[0])
    clean = clean.clamp(min=float(noisy) * FEW[1] / FEW[0])
    return _from_noise(time_at(schedule, -5 * _between(noisy ** (1 / 5), clean ** (1 / 5), steps).log()))


GRIDS: dict[str, Callable[[Schedule, int], Tensor]] = {
    "trailing": trailing_times,
    "leading": leading_times,
    "linspace": linspace_times,
    "quadratic": quadratic_times,
    "log_snr": log_snr_times,
    "karras": karras_times,
    "few": few_times,
}


def least_time(schedule: Schedule) -> float:
    """The last time before clean data: step 1 of a table, otherwise 0.001."""
    return 1 / schedule.steps if schedule.steps else LEAST_TIME


def _noisiest(schedule: Schedule) -> float:
    """The latest time with a finite log-SNR: 1, or step T - 1 of a table whose terminal SNR is zero."""
    finite = bool(schedule.log_snr(1.0).isfinite())
    return 1.0 if finite or not schedule.steps else 1 - 1 / schedule.steps


def _between(noisy: Tensor | float, clean: Tensor | float, steps: int) -> Tensor:
    """`steps` evenly spaced values from one to the other; one value is the first."""
    share = torch.linspace(0, 1, steps, dtype=torch.float64)
    return torch.lerp(torch.as_tensor(noisy).double(), torch.as_tensor(clean).double(), share)


def _to_data(times: Tensor) -> Tensor:
    return torch.cat([times, torch.zeros(1, dtype=torch.float64)])


def _from_noise(times: Tensor) -> Tensor:
    """The start put at t = 1 exactly, where the noise is, and the end at 0."""
    return _to_data(torch.cat([torch.ones(1, dtype=torch.float64), times[1:]]))


def _table_steps(name: str, schedule: Schedule) -> int:
    if schedule.steps is None:
        raise ConfigurationError(f"grid={name} picks steps of a table, and this schedule has none; use trailing")
    return schedule.steps

"""Time grids: the times that a sampler visits, from 1 (noise) down to 0 (data)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ConfigurationError
from ..schedule import Schedule


def trailing_times(schedule: Schedule, steps: int) -> Tensor:
    """steps + 1 evenly strided times t_0 = 1 > ... > t_n = 0, float64. For a table they are points of its grid.

    The first time is always 1, where the start is pure noise ("trailing" spacing, Lin et al. 2024, sec. 3.3).
    Raises ConfigurationError for steps < 1, or more steps than the table has.
    """
    if steps < 1:
        raise ConfigurationError(f"sampling needs at least 1 step, got {steps}")
    fractions = torch.arange(steps, -1, -1, dtype=torch.float64) / steps
    if schedule.steps is None:
        return fractions
    if steps > schedule.steps:
        raise ConfigurationError(
            f"the model was trained with T = {schedule.steps} steps, got {steps} sampling steps; use at most {schedule.steps}"
        )
    return (fractions * schedule.steps).round() / schedule.steps

"""The variables in which solvers think: sigma = b / a, and lambda = log(a / b), half the log-SNR, in which time runs from noise to data.

With y = x / a the probability-flow ODE is dy = eps_hat dsigma. Solved for the linear part (Lu et al. 2022b, eq. 8; 2022a, eq. 3.4):

    x_s = (b_s / b_t) x_t + a_s int_0^h e^(u - h) x_0_hat(lambda_t + u) du       (data form)
    x_s = (a_s / a_t) x_t - b_s int_0^h e^(h - u) eps_hat(lambda_t + u) du       (noise form),    h = lambda_s - lambda_t
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..diffusion.gaussian import Coefficient, expand
from ..diffusion.parameterization import Prediction
from ..diffusion.schedule import Schedule, Time
from .base import Visit


def half_log_snr(schedule: Schedule, t: Time) -> Tensor:
    """lambda_t = log(a_t / b_t)."""
    return schedule.log_snr(t) / 2


def time_at(schedule: Schedule, half_log_snr: Coefficient) -> Tensor:
    """The t at which lambda has this value."""
    return schedule.time(2 * half_log_snr)


def sigma(schedule: Schedule, t: Time) -> Tensor:
    """sigma_t = b_t / a_t."""
    return schedule.noise(t) / schedule.signal(t)


@dataclass(frozen=True)
class Stride:
    """The coefficients of a step from t to s, float64 of shape () or (N,)."""

    a_t: Tensor
    b_t: Tensor
    a_s: Tensor
    b_s: Tensor
    h: Tensor

    @property
    def singular(self) -> bool:
        """Whether h is infinite: a start without signal (zero terminal SNR) or the jump to clean data."""
        return not bool(self.h.isfinite().all())


def stride(schedule: Schedule, t: Tensor, s: Tensor) -> Stride:
    """The coefficients of the step from t to s."""
    h = half_log_snr(schedule, s) - half_log_snr(schedule, t)
    return Stride(schedule.signal(t), schedule.noise(t), schedule.signal(s), schedule.noise(s), h)


def jump(said: Prediction, a_s: Coefficient, b_s: Coefficient) -> Tensor:
    """x_s = a_s x_0_hat + b_s eps_hat: as if the estimates held all the way. Exact for the jump to clean data, where it is x_0_hat."""
    return expand(a_s, said.x_0) * said.x_0 + expand(b_s, said.eps) * said.eps


def data_step(x_t: Tensor, estimate: Tensor, c: Stride) -> Tensor:
    """x_s = (b_s / b_t) x_t - a_s (e^-h - 1) estimate: the data form with an estimate that holds all the way."""
    return expand(c.b_s / c.b_t, x_t) * x_t - expand(c.a_s * torch.expm1(-c.h), x_t) * estimate


def usable(past: Sequence[Visit], schedule: Schedule, count: int) -> list[Visit]:
    """Up to `count` of the earlier visits, the newest first, back to one whose lambda is not finite."""
    found = []
    for visit in past[:count]:
        if not bool(half_log_snr(schedule, visit.t).isfinite()):
            break
        found.append(visit)
    return found

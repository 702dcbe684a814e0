"""An adaptive solver: each picture takes the steps that its own error asks for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..diffusion.denoiser import DenoiserLike
from ..diffusion.gaussian import expand
from ..diffusion.parameterization import Prediction
from ..errors import ConfigurationError
from .base import Noise, Sampler, Visit
from .coordinates import data_step, half_log_snr, jump, stride, time_at

ABSOLUTE = 2 / 255  # one level of an 8-bit picture
SAFETY = 0.9
SHORTEST = 1 / 256  # of the stride: a step of this length is taken whatever its error, so that the solver always ends


class Adaptive(Sampler):
    """DPM-Solver++ of orders 2 and 3 side by side, from t to s in as many steps as keep their difference below the tolerance:

    x_1 = (b_1 / b_t) x_t - a_1 (e^(-h / 3) - 1) D,                                   D = x_0_hat(x_t, t), at lambda_t + h / 3
    x_2 = (b_2 / b_t) x_t - a_2 (e^(-2 h / 3) - 1) D + 2 a_2 phi(2 h / 3) D_1,        D_1 = x_0_hat(x_1) - D, at lambda_t + 2 h / 3
    high = (b_s / b_t) x_t - a_s (e^-h - 1) D + 3 / 2 a_s phi(h) D_2,                 D_2 = x_0_hat(x_2) - D,  phi(h) = (e^-h - 1) / h + 1
    low = (b_s / b_t) x_t - a_s (e^-h - 1) (D + 3 / 2 D_1)

    error = rms((high - low) / max(2 / 255, tolerance |high|)); a step is taken if error <= 1, and the next h is 0.9 h error^(-1/3).
    Every picture has its own h, so that it does not depend on its batch. Three network calls a step. Source: Lu et al. 2022a,
    algorithm 4 and app. C.1, in the data form. Raises ConfigurationError unless the tolerance is above 0.
    """

    order = start_order = 3
    calls = 3

    def __init__(self, tolerance: float = 0.05) -> None:
        if not tolerance > 0:
            raise ConfigurationError(f"the tolerance must be above 0, got {tolerance:g}")
        self.tolerance = tolerance

    def step(
        self, denoiser: DenoiserLike, x_t: Tensor, t: Tensor, s: Tensor, noise: Noise, past: Sequence[Visit] = ()
    ) -> tuple[Tensor, Visit]:
        """From t to s in three network calls or more."""
        schedule, said, whole = denoiser.schedule, denoiser(x_t, t), stride(denoiser.schedule, t, s)
        visit = Visit(t, x_t, said)
        if whole.singular:
            return jump(said, whole.a_s, whole.b_s), visit
        end = half_log_snr(schedule, s)
        place = half_log_snr(schedule, t).expand(len(x_t)).clone()  # lambda of each picture
        h, x = whole.h.expand(len(x_t)), x_t
        while bool((left := place < end).any()):
            h = torch.where(left, torch.minimum(h, end - place), whole.h)
            low, high = both_orders(denoiser, x, said, time_at(schedule, place), place, h)
            error = self.error(low, high)
            taken = left & ((error <= 1) | (h <= SHORTEST * whole.h))
            place = torch.where(taken, torch.where(h >= end - place, end, place + h), place)
            x = torch.where(expand(taken, x) > 0, high, x)
            h = (SAFETY * h * error.clamp(1e-3, 1e3) ** (-1 / 3)).clamp(min=SHORTEST * whole.h)
            if bool((place < end).any()):
                said = denoiser(x, time_at(schedule, place))
        return x, visit

    def error(self, low: Tensor, high: Tensor) -> Tensor:
        """The error of each picture (N,), 1 being what is allowed; what is not a number counts as too large."""
        allowed = (self.tolerance * high.abs()).clamp(min=ABSOLUTE)
        error: Tensor = ((high - low) / allowed).flatten(1).square().mean(1).sqrt()
        return error.nan_to_num(nan=1e3).cpu().double()


def both_orders(
    denoiser: DenoiserLike, x_t: Tensor, said: Prediction, t: Tensor, place: Tensor, h: Tensor
) -> tuple[Tensor, Tensor]:
    """(low, high): one step of length h (N,) from lambda = place (N,), where the denoiser said `said`, two more network calls."""
    schedule = denoiser.schedule
    s_1, s_2, s = (time_at(schedule, place + share * h) for share in (1 / 3, 2 / 3, 1))
    c_2, c = stride(schedule, t, s_2), stride(schedule, t, s)
    x_1 = data_step(x_t, said.x_0, stride(schedule, t, s_1))
    d_1 = denoiser(x_1, s_1).x_0 - said.x_0
    x_2 = data_step(x_t, said.x_0, c_2) + expand(2 * c_2.a_s * phi(c_2.h), x_t) * d_1
    d_2 = denoiser(x_2, s_2).x_0 - said.x_0
    low = data_step(x_t, said.x_0 + 1.5 * d_1, c)
    return low, data_step(x_t, said.x_0, c) + expand(1.5 * c.a_s * phi(c.h), x_t) * d_2


def phi(h: Tensor) -> Tensor:
    """(e^-h - 1) / h + 1, about h / 2."""
    return torch.expm1(-h) / h + 1

"""DPM-Solver++(2S): second order, from one step alone."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..diffusion.denoiser import DenoiserLike
from .base import Noise, Sampler, Visit
from .coordinates import data_step, half_log_snr, jump, stride, time_at


class DPMSolver2S(Sampler):
    """x_m = (b_m / b_t) x_t - a_m (e^(-h / 2) - 1) x_0_hat(x_t, t),   m halfway in lambda;
    x_s = (b_s / b_t) x_t - a_s (e^-h - 1) x_0_hat(x_m, m).

    Source: Lu et al. 2022b, algorithm 1 with r = 1/2. Without a finite h it is Euler's step.
    """

    order = start_order = 2
    calls = 2

    def step(
        self, denoiser: DenoiserLike, x_t: Tensor, t: Tensor, s: Tensor, noise: Noise, past: Sequence[Visit] = ()
    ) -> tuple[Tensor, Visit]:
        """One step of order 2, two network calls."""
        schedule, said, c = denoiser.schedule, denoiser(x_t, t), stride(denoiser.schedule, t, s)
        if c.singular:
            return jump(said, c.a_s, c.b_s), Visit(t, x_t, said)
        m = time_at(schedule, half_log_snr(schedule, t) + c.h / 2)
        x_m = data_step(x_t, said.x_0, stride(schedule, t, m))
        return data_step(x_t, denoiser(x_m, m).x_0, c), Visit(t, x_t, said)

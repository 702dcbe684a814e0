"""DPM-Solver++(3M): third order, from this visit and the two before."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..diffusion.denoiser import DenoiserLike
from ..diffusion.gaussian import expand
from .base import Noise, Sampler, Visit
from .coordinates import Stride, data_step, half_log_snr, jump, stride, usable
from .dpm_2m import extrapolated


class DPMSolver3M(Sampler):
    """x_s = (b_s / b_t) x_t + a_s (phi_1 D_0 + phi_2 D_1 + phi_3 D_2), where D_0 + D_1 u / h + D_2 (u / h)^2 goes through x_0_hat of the
    last three visits (u = lambda - lambda_t), and phi_k = int_0^h e^(u - h) (u / h)^(k - 1) du:

    phi_1 = 1 - e^-h,   phi_2 = 1 - phi_1 / h,   phi_3 = 1 - 2 phi_2 / h.

    Source: Lu et al. 2022b, eq. 8 and app. B, with the whole third term (the authors' code halves it, which leaves order 2). It
    starts with one step of Euler and one of 2M; steps without a finite h are Euler's.
    """

    order = 3
    start_order = 2
    memory = 2

    def step(
        self, denoiser: DenoiserLike, x_t: Tensor, t: Tensor, s: Tensor, noise: Noise, past: Sequence[Visit] = ()
    ) -> tuple[Tensor, Visit]:
        """One step of order 3, one network call."""
        schedule, said, c = denoiser.schedule, denoiser(x_t, t), stride(denoiser.schedule, t, s)
        visit, earlier = Visit(t, x_t, said), usable(past, schedule, 2)
        if c.singular:
            return jump(said, c.a_s, c.b_s), visit
        if len(earlier) < 2:
            return data_step(x_t, extrapolated(denoiser, visit, past, c), c), visit
        d_0, d_1, d_2 = parabola([half_log_snr(schedule, v.t) for v in (visit, *earlier)], c, [visit, *earlier])
        phi_1 = -torch.expm1(-c.h)
        phi_2 = 1 - phi_1 / c.h
        phi_3 = 1 - 2 * phi_2 / c.h
        estimate = expand(phi_1, x_t) * d_0 + expand(phi_2, x_t) * d_1 + expand(phi_3, x_t) * d_2
        return expand(c.b_s / c.b_t, x_t) * x_t + expand(c.a_s, x_t) * estimate, visit


def parabola(lambdas: Sequence[Tensor], c: Stride, visits: Sequence[Visit]) -> tuple[Tensor, Tensor, Tensor]:
    """D_0, D_1, D_2 of the parabola through x_0_hat of three visits, the newest first, by Newton's divided differences."""
    x_0, x_1, x_2 = (visit.said.x_0 for visit in visits)
    r_1, r_2 = ((lambdas[0] - other) / c.h for other in lambdas[1:])
    first = (x_0 - x_1) / expand(r_1, x_0)
    second = (x_1 - x_2) / expand(r_2 - r_1, x_0)
    bend = (first - second) / expand(r_2, x_0)
    return x_0, first + expand(r_1, x_0) * bend, bend

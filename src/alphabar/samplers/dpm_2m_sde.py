"""SDE-DPM-Solver++(2M): the stochastic way, with the estimate of DPM-Solver++(2M)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..diffusion.denoiser import DenoiserLike
from ..diffusion.gaussian import expand
from .base import Noise, Sampler, Visit
from .coordinates import jump, stride
from .dpm_2m import extrapolated


class DPMSolver2MSDE(Sampler):
    """x_s = (b_s / b_t) e^-h x_t + a_s (1 - e^-2h) D + b_s sqrt(1 - e^-2h) z, with D of DPM-Solver++(2M).

    With D = x_0_hat it is ancestral sampling with the posterior variance. Source: Lu et al. 2022b, eq. 18 and algorithm 4. To clean
    data, and from a start without signal, D = x_0_hat and e^-h = 0.
    """

    memory = 1
    stochastic = True

    def step(
        self, denoiser: DenoiserLike, x_t: Tensor, t: Tensor, s: Tensor, noise: Noise, past: Sequence[Visit] = ()
    ) -> tuple[Tensor, Visit]:
        """One step, one network call."""
        said, c = denoiser(x_t, t), stride(denoiser.schedule, t, s)
        visit = Visit(t, x_t, said)
        if s == 0:
            return jump(said, c.a_s, c.b_s), visit
        estimate = said.x_0 if c.singular else extrapolated(denoiser, visit, past, c)
        kept, new = torch.exp(-c.h), -torch.expm1(-2 * c.h)  # e^-h, 1 - e^-2h
        mean = expand(c.b_s / c.b_t * kept, x_t) * x_t + expand(c.a_s * new, x_t) * estimate
        return mean + expand(c.b_s * new.sqrt(), x_t) * noise(), visit

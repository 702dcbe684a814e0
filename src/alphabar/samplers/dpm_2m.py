"""DPM-Solver++(2M): second order, from this visit and the one before."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..diffusion.denoiser import DenoiserLike
from ..diffusion.gaussian import expand
from .base import Noise, Sampler, Visit
from .coordinates import Stride, data_step, half_log_snr, jump, stride, usable


class DPMSolver2M(Sampler):
    """D = (1 + 1 / (2 r)) x_0_hat - 1 / (2 r) x_0_hat of the last visit,   r = h_last / h;
    x_s = (b_s / b_t) x_t - a_s (e^-h - 1) D.

    Source: Lu et al. 2022b, algorithm 2. The first step and those without a finite h are Euler's.
    """

    order = start_order = 2
    memory = 1

    def step(
        self, denoiser: DenoiserLike, x_t: Tensor, t: Tensor, s: Tensor, noise: Noise, past: Sequence[Visit] = ()
    ) -> tuple[Tensor, Visit]:
        """One step of order 2, one network call."""
        said, c = denoiser(x_t, t), stride(denoiser.schedule, t, s)
        if c.singular:
            return jump(said, c.a_s, c.b_s), Visit(t, x_t, said)
        visit = Visit(t, x_t, said)
        return data_step(x_t, extrapolated(denoiser, visit, past, c), c), visit


def extrapolated(denoiser: DenoiserLike, now: Visit, past: Sequence[Visit], c: Stride) -> Tensor:
    """D: x_0_hat carried on to the middle of the step along a line in lambda, as far as there is a last visit."""
    earlier = usable(past, denoiser.schedule, 1)
    if not earlier:
        return now.said.x_0
    last = earlier[0]
    r = (half_log_snr(denoiser.schedule, now.t) - half_log_snr(denoiser.schedule, last.t)) / c.h
    return expand(1 + 1 / (2 * r), now.x_t) * now.said.x_0 - expand(1 / (2 * r), now.x_t) * last.said.x_0

"""Euler's method."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..diffusion.denoiser import DenoiserLike
from .base import Noise, Sampler, Visit
from .coordinates import jump


class Euler(Sampler):
    """y_s = y_t + (sigma_s - sigma_t) eps_hat, y = x / a; for x this is x_s = a_s x_0_hat + b_s eps_hat.

    The same step in sigma, in lambda with either estimate held, and of DDIM with eta = 0 (Song et al. 2021a, eq. 13; Karras et al.
    2022, algorithm 1 without its second half).
    """

    def step(
        self, denoiser: DenoiserLike, x_t: Tensor, t: Tensor, s: Tensor, noise: Noise, past: Sequence[Visit] = ()
    ) -> tuple[Tensor, Visit]:
        """One step of order 1."""
        said = denoiser(x_t, t)
        return jump(said, denoiser.schedule.signal(s), denoiser.schedule.noise(s)), Visit(t, x_t, said)

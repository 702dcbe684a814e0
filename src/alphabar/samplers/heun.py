"""Heun's method."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..diffusion.denoiser import DenoiserLike
from ..diffusion.gaussian import expand
from .base import Noise, Sampler, Visit
from .coordinates import jump, sigma, stride


class Heun(Sampler):
    """y_s = y_t + (sigma_s - sigma_t) (eps_hat(x_t, t) + eps_hat(x', s)) / 2, y = x / a, x' being Euler's step to s.

    Source: Karras et al. 2022, algorithm 1. Without a finite sigma (zero terminal SNR) and to clean data it is Euler's step.
    """

    order = start_order = 2
    variable = "sigma"
    calls = 2

    def step(
        self, denoiser: DenoiserLike, x_t: Tensor, t: Tensor, s: Tensor, noise: Noise, past: Sequence[Visit] = ()
    ) -> tuple[Tensor, Visit]:
        """One step of order 2, two network calls."""
        said, c = denoiser(x_t, t), stride(denoiser.schedule, t, s)
        euler = jump(said, c.a_s, c.b_s)
        if c.singular:
            return euler, Visit(t, x_t, said)
        eps = (said.eps + denoiser(euler, s).eps) / 2
        change = sigma(denoiser.schedule, s) - sigma(denoiser.schedule, t)
        return expand(c.a_s / c.a_t, x_t) * x_t + expand(c.a_s * change, x_t) * eps, Visit(t, x_t, said)

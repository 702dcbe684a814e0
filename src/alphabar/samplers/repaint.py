"""RePaint: part of the picture is known, the rest is drawn to fit it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..diffusion.denoiser import DenoiserLike
from ..diffusion.gaussian import diffuse, diffuse_step, stride_beta
from ..errors import ConfigurationError
from .base import Noise, Sampler, Visit


class RePaint(Sampler):
    """Down, s < t: x_s = m x_s' + (1 - m) (a_s x_0 + b_s z), x_s' being a step of the wrapped sampler, x_0 the known picture.
    Up, s > t: a draw from q(x_s | x_t).

    Source: Lugmayr et al. 2022, eq. 8 and algorithm 1. picture (N, C, H, W) in [-1, 1]; mask (N, 1, H, W), 1 where the
    picture is to be drawn. Raises ConfigurationError for a sampler that remembers earlier visits: they would be of another way.
    """

    memory = 1  # the last visit, for the estimate on the way up
    stochastic = True

    def __init__(self, sampler: Sampler, picture: Tensor, mask: Tensor) -> None:
        if sampler.memory:
            raise ConfigurationError(
                f"{type(sampler).__name__} remembers earlier steps and cannot go back up; use ancestral or ddim"
            )
        self.sampler, self.picture, self.mask = sampler, picture, mask

    def step(
        self, denoiser: DenoiserLike, x_t: Tensor, t: Tensor, s: Tensor, noise: Noise, past: Sequence[Visit] = ()
    ) -> tuple[Tensor, Visit]:
        """One step down or up."""
        alpha_bar, alpha_bar_s = denoiser.schedule.alpha_bar(t), denoiser.schedule.alpha_bar(s)
        if s > t:
            return diffuse_step(x_t, stride_beta(alpha_bar_s, alpha_bar), noise()), past[0]
        x_s, visit = self.sampler.step(denoiser, x_t, t, s, noise)
        known = diffuse(self.picture, alpha_bar_s, noise("known"))
        return self.mask * x_s + (1 - self.mask) * known, visit


def with_returns(times: Tensor, jump: int, resamplings: int) -> Tensor:
    """Falling times (K + 1,) in which every stretch of `jump` steps is gone `resamplings` times: down, back up in one step, down.

    The last stretch is the one that ends at clean data. Raises ConfigurationError for a jump or a count below 1.
    """
    if jump < 1 or resamplings < 1:
        raise ConfigurationError(f"resampling needs a jump and a count of at least 1, got {jump} and {resamplings}")
    parts = [times[:1]]
    for start in range(0, len(times) - 1, jump):
        stretch = times[start : start + jump + 1]
        parts += [stretch[1:], *[stretch] * (resamplings - 1)]
    return torch.cat(parts)

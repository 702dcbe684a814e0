"""Keep x_0_hat in the range of pictures: a denoiser that wraps a denoiser."""

from __future__ import annotations

import torch
from torch import Tensor

from ..diffusion.denoiser import DenoiserLike
from ..diffusion.parameterization import Prediction, eps_from_x_0
from ..diffusion.schedule import Schedule, Time
from ..errors import unknown
from ..networks.cond import Cond

CLIPS = ("static", "dynamic", "off")


class Clipped:
    """The wrapped denoiser with x_0_hat clipped, and eps derived again from it so that both agree.

    static: to [-1, 1]. dynamic: to [-q, q] and divided by q, with q = max(1, the quantile of |x_0_hat| of each picture)
    (Saharia et al. 2022, sec. 2.3). off: unchanged. Wrap the guided denoiser, never the other way round. Not for latents.
    """

    def __init__(self, denoiser: DenoiserLike, mode: str = "static", quantile: float = 0.995) -> None:
        if mode not in CLIPS:
            raise unknown("clip", mode, CLIPS)
        self.denoiser, self.mode, self.quantile = denoiser, mode, quantile

    @property
    def schedule(self) -> Schedule:
        """The schedule of the wrapped denoiser."""
        return self.denoiser.schedule

    def __call__(self, x_t: Tensor, t: Time, cond: Cond | None = None) -> Prediction:
        """The clipped prediction at x_t."""
        prediction = self.denoiser(x_t, t, cond)
        if self.mode == "off":
            return prediction
        x_0 = prediction.x_0.clamp(-1, 1) if self.mode == "static" else dynamic_threshold(prediction.x_0, self.quantile)
        eps = eps_from_x_0(x_t, x_0, self.schedule.signal(t), self.schedule.noise(t))
        return Prediction(x_0, eps, prediction.variance_fraction)


def dynamic_threshold(x_0: Tensor, quantile: float) -> Tensor:
    """x_0 (N, ...) clipped to its own quantile of |x_0| if that exceeds 1, and scaled back to [-1, 1]."""
    q = torch.quantile(x_0.abs().flatten(1), quantile, dim=1).clamp(min=1).reshape(-1, *[1] * (x_0.ndim - 1))
    return x_0.clamp(-q, q) / q

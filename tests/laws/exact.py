"""Data whose ideal denoiser is known in closed form."""

from __future__ import annotations

import torch
from torch import Tensor

from alphabar.diffusion.gaussian import expand
from alphabar.diffusion.parameterization import Prediction, eps_from_x_0
from alphabar.diffusion.schedule import Schedule, Time
from alphabar.networks.cond import Cond


class GaussianMixture:
    """x_0 ~ sum_k w_k N(m_k, s_k^2 I): the exact E[x_0 | x_t] as a denoiser. means (K, D), deviations (K,), weights (K,)."""

    def __init__(self, schedule: Schedule, means: Tensor, deviations: Tensor, weights: Tensor) -> None:
        self.schedule = schedule
        self.means, self.deviations, self.weights = means.double(), deviations.double(), weights.double()

    def __call__(self, x_t: Tensor, t: Time, cond: Cond | None = None) -> Prediction:
        a, b = self.schedule.signal(t), self.schedule.noise(t)
        x = x_t.double()[:, None]  # (N, 1, D)
        a_n, b_n = (c.reshape(-1, 1) for c in (a, b))
        variance = a_n**2 * self.deviations**2 + b_n**2  # (1 or N, K)
        residual = x - a_n[..., None] * self.means
        log_p = self.weights.log() - 0.5 * (residual**2).sum(-1) / variance - 0.5 * x.shape[-1] * variance.log()
        share = log_p.softmax(1)
        gain = a_n * self.deviations**2 / variance
        component = self.means + gain[..., None] * residual
        x_0 = (share[..., None] * component).sum(1).to(x_t.dtype)
        return Prediction(x_0, eps_from_x_0(x_t, x_0, a, b))


def gaussian(schedule: Schedule, mean: float = 0.0, deviation: float = 1.0, dim: int = 1) -> GaussianMixture:
    """The denoiser of N(mean, deviation^2 I)."""
    return GaussianMixture(schedule, torch.full((1, dim), mean), torch.tensor([deviation]), torch.ones(1))


def draw_mixture(mixture: GaussianMixture, n: int, seed: int) -> Tensor:
    """n draws from the data itself."""
    g = torch.Generator().manual_seed(seed)
    k = torch.multinomial(mixture.weights, n, replacement=True, generator=g)
    return mixture.means[k] + expand(mixture.deviations[k], mixture.means[k]) * torch.randn(
        n, mixture.means.shape[1], generator=g, dtype=torch.float64
    )


class CorrelatedGaussian:
    """x_0 ~ N(m, C): E[x_0 | x_t] = m + a C (a^2 C + b^2 I)^-1 (x_t - a m). mean (D,), covariance (D, D); t is one number."""

    def __init__(self, schedule: Schedule, mean: Tensor, covariance: Tensor) -> None:
        self.schedule, self.mean, self.covariance = schedule, mean.double(), covariance.double()

    def __call__(self, x_t: Tensor, t: Time, cond: Cond | None = None) -> Prediction:
        a, b = self.schedule.signal(t), self.schedule.noise(t)
        total = a**2 * self.covariance + b**2 * torch.eye(len(self.mean), dtype=torch.float64)
        gain = a * torch.linalg.solve(total, self.covariance).T
        x_0 = (self.mean + (x_t.double() - a * self.mean) @ gain.T).to(x_t.dtype)
        return Prediction(x_0, eps_from_x_0(x_t, x_0, a, b))

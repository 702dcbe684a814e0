"""Ancestral sampling: draw x_s from the posterior q(x_s | x_t, x_0) with the estimate x_0_hat in the place of x_0."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..diffusion.denoiser import DenoiserLike
from ..diffusion.gaussian import expand, learned_log_variance, posterior_mean, posterior_variance, stride_beta
from ..diffusion.parameterization import Prediction
from ..errors import ConfigurationError, unknown
from .base import Noise, Sampler, Visit

VARIANCES = ("posterior", "beta", "learned")


class Ancestral(Sampler):
    """x_s = mu(x_t, x_0_hat) + sigma z, z ~ N(0, I); no noise on the step to clean data (Ho et al. 2020, algorithm 2).

    mu is `gaussian.posterior_mean` of the stride from s to t. sigma^2 is the stride's beta ("fixed large"), the posterior's
    variance ("fixed small"), or learned between both in log space (Nichol & Dhariwal 2021, eq. 15).
    """

    stochastic = True

    def __init__(self, variance: str = "posterior") -> None:
        if variance not in VARIANCES:
            raise unknown("variance", variance, VARIANCES)
        self.variance = variance

    def step(
        self, denoiser: DenoiserLike, x_t: Tensor, t: Tensor, s: Tensor, noise: Noise, past: Sequence[Visit] = ()
    ) -> tuple[Tensor, Visit]:
        """One stride from t to s."""
        alpha_bar, alpha_bar_prev = denoiser.schedule.alpha_bar(t), denoiser.schedule.alpha_bar(s)
        prediction = denoiser(x_t, t)
        mean = posterior_mean(prediction.x_0, x_t, alpha_bar, alpha_bar_prev)
        if s > 0:
            mean = mean + self.deviation(prediction, alpha_bar, alpha_bar_prev) * noise()
        return mean, Visit(t, x_t, prediction)

    def deviation(self, prediction: Prediction, alpha_bar: Tensor, alpha_bar_prev: Tensor) -> Tensor:
        """sigma of the stride, a scalar or of the picture's shape."""
        beta = stride_beta(alpha_bar, alpha_bar_prev)
        posterior = posterior_variance(alpha_bar, alpha_bar_prev)
        match self.variance:
            case "beta":
                return expand(beta.sqrt(), prediction.x_0)
            case "posterior":
                return expand(posterior.sqrt(), prediction.x_0)
            case _:
                if prediction.variance_fraction is None:
                    raise ConfigurationError("the model did not learn its variance; use variance 'posterior' or 'beta'")
                return torch.exp(0.5 * learned_log_variance(prediction.variance_fraction, posterior.log(), beta.log()))

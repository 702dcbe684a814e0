"""The Gaussians of the derivation: one step forward, all steps in one jump, and one step back.

Coefficients are float64 numbers or tensors of shape () or (N,); pictures x are (N, ...) in any float type. Coefficients are
combined in float64 and cast only where they meet a picture. `prev` is the time one step (or one stride) nearer to the data.
With a stride, alpha and beta are those of the whole stride: alpha = alpha_bar / alpha_bar_prev.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

Coefficient = Tensor


def expand(coefficient: Coefficient | float, x: Tensor) -> Tensor:
    """A coefficient of shape () or (N,) in x's type and device, shaped to multiply x of shape (N, ...).

    The coefficient is cast where it is and moved afterwards, so that no float64 reaches a device that may lack it (MPS does).
    """
    coefficient = torch.as_tensor(coefficient, dtype=x.dtype).to(x.device)
    return coefficient.reshape(-1, *[1] * (x.ndim - 1)) if coefficient.ndim else coefficient


def step_mean(x_prev: Tensor, beta: Coefficient) -> Tensor:
    """Mean of q(x_t | x_{t-1}) = N(sqrt(1 - beta_t) x_{t-1}, beta_t I) (Ho et al. 2020, eq. 2). Shape of x_prev."""
    return expand((1 - beta).sqrt(), x_prev) * x_prev


def diffuse_step(x_prev: Tensor, beta: Coefficient, eps: Tensor) -> Tensor:
    """x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) eps, a draw from q(x_t | x_{t-1}) for eps ~ N(0, I)."""
    return step_mean(x_prev, beta) + expand(beta.sqrt(), eps) * eps


def diffuse(x_0: Tensor, alpha_bar: Coefficient, eps: Tensor) -> Tensor:
    """x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps, a draw from q(x_t | x_0) (Ho et al. 2020, eq. 4)."""
    return expand(alpha_bar.sqrt(), x_0) * x_0 + expand((1 - alpha_bar).sqrt(), eps) * eps


def stride_beta(alpha_bar: Coefficient, alpha_bar_prev: Coefficient) -> Tensor:
    """beta = 1 - alpha_bar_t / alpha_bar_prev: the noise of the whole stride from prev to t; beta_t for a single step."""
    return 1 - alpha_bar / alpha_bar_prev


def posterior_mean(x_0: Tensor, x_t: Tensor, alpha_bar: Coefficient, alpha_bar_prev: Coefficient) -> Tensor:
    """Mean of q(x_prev | x_t, x_0), also the reverse mean from an x_0 that was predicted (Ho et al. 2020, eq. 7).

    mu = sqrt(alpha) (1 - alpha_bar_prev) / (1 - alpha_bar) x_t + sqrt(alpha_bar_prev) (1 - alpha) / (1 - alpha_bar) x_0
    """
    alpha = alpha_bar / alpha_bar_prev
    on_x_t = alpha.sqrt() * (1 - alpha_bar_prev) / (1 - alpha_bar)
    on_x_0 = alpha_bar_prev.sqrt() * (1 - alpha) / (1 - alpha_bar)
    return expand(on_x_t, x_t) * x_t + expand(on_x_0, x_0) * x_0


def posterior_variance(alpha_bar: Coefficient, alpha_bar_prev: Coefficient) -> Tensor:
    """Variance of q(x_prev | x_t, x_0): (1 - alpha_bar_prev) / (1 - alpha_bar) beta (Ho et al. 2020, eq. 7).

    Exactly 0 for the step to clean data (alpha_bar_prev = 1); take `log_variance_floor` where a logarithm is needed.
    """
    return (1 - alpha_bar_prev) / (1 - alpha_bar) * stride_beta(alpha_bar, alpha_bar_prev)


def reverse_mean_from_eps(x_t: Tensor, eps: Tensor, alpha_bar: Coefficient, alpha_bar_prev: Coefficient) -> Tensor:
    """mu = (x_t - (1 - alpha) / sqrt(1 - alpha_bar) eps) / sqrt(alpha) (Ho et al. 2020, eq. 11).

    Equal to `posterior_mean` with x_0 = (x_t - sqrt(1 - alpha_bar) eps) / sqrt(alpha_bar). Needs alpha_bar > 0.
    """
    alpha = alpha_bar / alpha_bar_prev
    on_eps = (1 - alpha) / (1 - alpha_bar).sqrt()
    return (x_t - expand(on_eps, eps) * eps) / expand(alpha.sqrt(), x_t)


def posterior_log_variances(alpha_bars: Tensor) -> Tensor:
    """log of the posterior variances of a table, for steps 1..T, with step 1 clipped to the value of step 2.

    alpha_bars (T + 1,) with alpha_bars[0] = 1; returns (T,). For T = 1, log beta_1 stands in (there is no step 2).
    Source: Ho et al. 2020, code; Nichol & Dhariwal 2021, eq. 15.
    """
    alpha_bar, alpha_bar_prev = alpha_bars[1:], alpha_bars[:-1]
    variance = posterior_variance(alpha_bar, alpha_bar_prev)
    variance[0] = variance[1] if len(variance) > 1 else stride_beta(alpha_bar, alpha_bar_prev)[0]
    return variance.log()


def learned_log_variance(fraction: Tensor, log_posterior: Coefficient, log_beta: Coefficient) -> Tensor:
    """log sigma^2 = fraction log beta + (1 - fraction) log beta_tilde (Nichol & Dhariwal 2021, eq. 15). Shape of fraction."""
    return fraction * expand(log_beta, fraction) + (1 - fraction) * expand(log_posterior, fraction)


def kl_divergence(mean_1: Tensor, log_variance_1: Tensor, mean_2: Tensor, log_variance_2: Tensor) -> Tensor:
    """KL(N(mean_1, var_1) || N(mean_2, var_2)) of each element, in nats. Shapes broadcast."""
    ratio = torch.exp(log_variance_1 - log_variance_2)
    distance = (mean_1 - mean_2) ** 2 * torch.exp(-log_variance_2)
    return 0.5 * (log_variance_2 - log_variance_1 - 1 + ratio + distance)


def discretized_log_likelihood(x_0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """log of the probability that N(mean, variance) gives the 8-bit bin of x_0, in nats per element (Ho et al. 2020, eq. 13).

    x_0 holds 8-bit values mapped to [-1, 1], so a bin is 2 / 255 wide; the outermost bins are open; probabilities are
    floored at 1e-12. Shapes broadcast.
    """
    scale = torch.exp(-0.5 * log_variance)
    upper = _normal_cdf(scale * (x_0 - mean + 1 / 255))
    lower = _normal_cdf(scale * (x_0 - mean - 1 / 255))
    upper = torch.where(x_0 > 1 - 1 / 255, torch.ones_like(upper), upper)
    lower = torch.where(x_0 < -1 + 1 / 255, torch.zeros_like(lower), lower)
    return (upper - lower).clamp(min=1e-12).log()


def _normal_cdf(z: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf(z / math.sqrt(2)))

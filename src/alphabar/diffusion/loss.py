"""The training loss: weighted squared error on the target, and the bound's terms where the variance is learned."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ConfigurationError, unknown
from ..networks.cond import Cond
from ..settings.base import LossSettings
from .denoiser import Denoiser
from .gaussian import (
    diffuse,
    discretized_log_likelihood,
    expand,
    kl_divergence,
    learned_log_variance,
    posterior_log_variances,
    posterior_mean,
    stride_beta,
)
from .parameterization import predict, target
from .schedule import TableSchedule

WEIGHTS = ("simple", "min_snr", "snr")


@dataclass(frozen=True)
class Losses:
    """The loss of each picture, (N,): `total` is what is minimised, `squared_error` the plain mean squared error on the target."""

    total: Tensor
    squared_error: Tensor


def loss_weight(kind: str, prediction: str, snr: Tensor, gamma: float = 5.0) -> Tensor:
    """Weight (N,) of the squared error on the target, from SNR (N,) in [0, inf).

    An error in x_0 is seen scaled by SNR in eps and by SNR + 1 in v, so a weight w on x_0 is w / SNR on eps and w / (SNR + 1)
    on v. simple: 1 on the target whatever it is (Ho et al. 2020, eq. 14). snr: w = SNR, which is 1 on eps. min_snr:
    w = min(SNR, gamma) (Hang et al. 2023, sec. 3.4). At SNR = 0 the weight on eps takes its limit, 1.
    """
    match kind:
        case "simple":
            return torch.ones_like(snr)
        case "snr":
            on_x_0 = snr
        case "min_snr":
            on_x_0 = snr.clamp(max=gamma)
        case _:
            raise unknown("loss weight", kind, WEIGHTS)
    match prediction:
        case "eps":
            return torch.where(snr > 0, on_x_0 / snr, 1.0)
        case "x_0":
            return on_x_0
        case "v":
            return on_x_0 / (snr + 1)
        case _:
            raise unknown("prediction", prediction, ("eps", "x_0", "v"))


def bound_weight(alpha_bar_t: Tensor, alpha_bar_s: Tensor, variance: Tensor) -> Tensor:
    """What the variational bound weighs the squared error of eps with in the step from t back to s, in nats: it is 1 in `simple`.

    beta^2 / (2 sigma^2 alpha (1 - alpha_bar_t)), with alpha = 1 - beta = alpha_bar_t / alpha_bar_s and sigma^2 the variance of the
    model's step (Ho et al. 2020, eq. 12). Any shapes that broadcast; infinite where the variance is 0 or nothing of the picture is left.
    """
    beta = stride_beta(alpha_bar_t, alpha_bar_s)
    return beta**2 / (2 * variance * (1 - beta) * (1 - alpha_bar_t))


def denoising_loss(
    denoiser: Denoiser, x_0: Tensor, t: Tensor, eps: Tensor, cond: Cond | None, settings: LossSettings
) -> Losses:
    """Noise x_0 (N, ...) to t (N,) with eps, predict, compare (Ho et al. 2020, algorithm 1).

    With a learned variance the hybrid loss L_simple + lambda L_vlb of Nichol & Dhariwal 2021 (eq. 16) is used, L_vlb in bits
    per dimension, its gradient reaching the variance only.
    """
    schedule, kind = denoiser.schedule, denoiser.settings.prediction
    a, b = schedule.signal(t), schedule.noise(t)
    x_t = diffuse(x_0, schedule.alpha_bar(t), eps)
    output, fraction = denoiser.output(x_t, t, cond)
    squared_error = ((output - target(kind, x_0, eps, a, b)) ** 2).flatten(1).mean(1)
    total = squared_error * expand(
        loss_weight(settings.weight, kind, schedule.snr(t), settings.min_snr_gamma), squared_error
    )
    if fraction is not None:
        x_0_hat = predict(kind, output.detach(), x_t, a, b).x_0
        total = total + settings.vlb_weight * (schedule.steps or 0) * bound_term(
            schedule, x_0, x_0_hat, x_t, t, fraction
        )
    return Losses(total, squared_error)


def bound_term(schedule: object, x_0: Tensor, x_0_hat: Tensor, x_t: Tensor, t: Tensor, fraction: Tensor) -> Tensor:
    """The term of the variational bound at step k = t T, (N,), in bits per dimension (Nichol & Dhariwal 2021, eq. 4 to 6).

    KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)) for k >= 2, and -log p(x_0 | x_1) of 8-bit data for k = 1.
    """
    if not isinstance(schedule, TableSchedule):
        raise ConfigurationError("the bound needs a table of steps")
    k = (t * schedule.steps).round().long()
    alpha_bar, alpha_bar_prev = schedule.alpha_bars[k], schedule.alpha_bars[k - 1]
    log_posterior, log_beta = posterior_log_variances(schedule.alpha_bars)[k - 1], schedule.beta[k - 1].log()
    mean = posterior_mean(x_0, x_t, alpha_bar, alpha_bar_prev)
    mean_hat = posterior_mean(x_0_hat, x_t, alpha_bar, alpha_bar_prev)
    log_variance_hat = learned_log_variance(fraction, log_posterior, log_beta)
    divergence = kl_divergence(mean, expand(log_posterior, x_t), mean_hat, log_variance_hat)
    decoder = -discretized_log_likelihood(x_0, mean_hat, log_variance_hat)
    first = (k == 1).to(x_t.device).reshape(-1, *[1] * (x_t.ndim - 1))
    return torch.where(first, decoder, divergence).flatten(1).mean(1) / math.log(2)

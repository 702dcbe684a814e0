"""Defects of schedules, Gaussians, parameterizations, the denoiser, losses and the times of training."""

from __future__ import annotations

import math
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F

from alphabar.diffusion.gaussian import (
    expand,
    kl_divergence,
    learned_log_variance,
    posterior_log_variances,
    stride_beta,
)
from alphabar.diffusion.schedule import check_time
from alphabar.randomness import permutation, uniform

from ..seeding import Defects

DEFECTS = Defects()
GAUSSIAN, SCHEDULE, LOSS = "laws/test_gaussian.py", "laws/test_schedule.py", "laws/test_loss.py"
PARAMETERIZATION, TIMES, UNET = "laws/test_parameterization.py", "training/test_times.py", "networks/test_unet.py"

# schedules


@DEFECTS.seed("alpha_bar without its first factor", "TableSchedule.__init__", SCHEDULE)
def _(original: Any) -> Any:
    def __init__(self, betas):
        original(self, betas)
        self.alpha_bars[1:] = self.alpha.cumprod(0).roll(1)
        self._log_snrs = self.alpha_bars.log() - torch.log1p(-self.alpha_bars)

    return __init__


@DEFECTS.seed("linear betas not scaled with T", "linear_betas", SCHEDULE)
def _(original: Any) -> Any:
    return lambda steps, *ends, **named: original(steps, *ends, **named) * steps / 1000


@DEFECTS.seed("scaled linear without the square", "scaled_linear_betas", SCHEDULE)
def _(original: Any) -> Any:
    return lambda steps, *ends, **named: (original(steps, *ends, **named) * 1000 / steps).sqrt()


DEFECTS.constant("cosine without its cap", "BETA_CAP", 0.99999999, SCHEDULE)


@DEFECTS.seed("zero terminal SNR off by the first value", "rescale_zero_terminal_snr", SCHEDULE)
def _(original: Any) -> Any:
    """Every alpha_bar is divided by the first one, so that the first beta becomes 0."""
    return lambda betas: torch.cat([torch.zeros_like(betas[:1]), original(betas)[1:]])


@DEFECTS.seed("SNR upside down", "Schedule.snr", SCHEDULE)
def _(original: Any) -> Any:
    return lambda self, t: 1 / original(self, t)


@DEFECTS.seed("time read one step late", "TableSchedule._interpolate", SCHEDULE)
def _(original: Any) -> Any:
    return lambda self, t, sign: original(self, (check_time(t) + 1 / self.steps).clamp(max=1), sign)


@DEFECTS.seed("time in float32", "check_time", GAUSSIAN, "compose")
def _(original: Any) -> Any:
    return lambda t: original(torch.as_tensor(t, dtype=torch.float32, device="cpu"))


@DEFECTS.seed("a last beta of 1 refused", "check_betas", SCHEDULE)
def _(original: Any) -> Any:
    return lambda betas: original(betas.where(betas != 1, 2.0))


# Gaussians


@DEFECTS.seed("noise scaled by its variance", "diffuse", GAUSSIAN, "compose")
def _(original: Any) -> Any:
    return lambda x_0, alpha_bar, eps: original(x_0, alpha_bar, expand((1 - alpha_bar).sqrt(), eps) * eps)


@DEFECTS.seed("step mean without the root", "step_mean", GAUSSIAN, "compose")
def _(original: Any) -> Any:
    return lambda x_prev, beta: original(x_prev, 1 - (1 - beta) ** 2)


@DEFECTS.seed("posterior coefficients swapped", "posterior_mean", GAUSSIAN)
def _(original: Any) -> Any:
    return lambda x_0, x_t, alpha_bar, alpha_bar_prev: original(x_t, x_0, alpha_bar, alpha_bar_prev)


@DEFECTS.seed("posterior mean with alpha_bar_t for alpha_bar_prev", "posterior_mean", GAUSSIAN)
def _(original: Any) -> Any:
    def posterior_mean(x_0, x_t, alpha_bar, alpha_bar_prev):
        return original(expand((alpha_bar / alpha_bar_prev).sqrt(), x_0) * x_0, x_t, alpha_bar, alpha_bar_prev)

    return posterior_mean


@DEFECTS.seed("posterior variance is beta", "posterior_variance", GAUSSIAN)
def _(original: Any) -> Any:
    return lambda alpha_bar, alpha_bar_prev: stride_beta(alpha_bar, alpha_bar_prev)


@DEFECTS.seed("reverse mean with the wrong sign of eps", "reverse_mean_from_eps", GAUSSIAN)
def _(original: Any) -> Any:
    return lambda x_t, eps, alpha_bar, alpha_bar_prev: original(x_t, -eps, alpha_bar, alpha_bar_prev)


@DEFECTS.seed("reverse mean without the root of 1 - alpha_bar", "reverse_mean_from_eps", GAUSSIAN)
def _(original: Any) -> Any:
    def reverse_mean_from_eps(x_t, eps, alpha_bar, alpha_bar_prev):
        return original(x_t, eps / expand((1 - alpha_bar).sqrt(), eps), alpha_bar, alpha_bar_prev)

    return reverse_mean_from_eps


@DEFECTS.seed("log of a zero posterior variance", "posterior_log_variances", GAUSSIAN)
def _(original: Any) -> Any:
    def posterior_log_variances(alpha_bars):
        logs = original(alpha_bars)
        return torch.cat([torch.full_like(logs[:1], -math.inf), logs[1:]]) if len(logs) > 1 else logs

    return posterior_log_variances


@DEFECTS.seed("learned variance between swapped ends", "learned_log_variance", GAUSSIAN)
def _(original: Any) -> Any:
    return lambda fraction, log_posterior, log_beta: original(fraction, log_beta, log_posterior)


@DEFECTS.seed("KL without its logarithm", "kl_divergence", GAUSSIAN)
def _(original: Any) -> Any:
    def kl_divergence(mean_1, log_variance_1, mean_2, log_variance_2):
        return original(mean_1, log_variance_1, mean_2, log_variance_2) - 0.5 * (log_variance_2 - log_variance_1)

    return kl_divergence


@DEFECTS.seed("likelihood with closed outer bins", "discretized_log_likelihood", GAUSSIAN)
def _(original: Any) -> Any:
    def discretized_log_likelihood(x_0, mean, log_variance):
        closed = original(x_0 - 1, mean - 1, log_variance)  # the upper bin lies in the middle of the range
        return torch.where(x_0 > 1 - 1 / 255, closed, original(x_0, mean, log_variance))

    return discretized_log_likelihood


@DEFECTS.seed("likelihood bins of half width", "discretized_log_likelihood", GAUSSIAN)
def _(original: Any) -> Any:
    def discretized_log_likelihood(x_0, mean, log_variance):
        narrow = original(torch.zeros_like(x_0), 2 * (mean - x_0), log_variance + math.log(4))  # all lengths doubled
        return torch.where(x_0.abs() < 1 - 1 / 255, narrow, original(x_0, mean, log_variance))

    return discretized_log_likelihood


# parameterization


@DEFECTS.seed("v with swapped signs", "v_from_x_0_and_eps", PARAMETERIZATION)
def _(original: Any) -> Any:
    return lambda x_0, eps, a, b: -original(x_0, eps, a, b)


@DEFECTS.seed("x_0 from v adds", "x_0_from_v", PARAMETERIZATION)
def _(original: Any) -> Any:
    return lambda x_t, v, a, b: original(x_t, -v, a, b)


@DEFECTS.seed("x_0 from eps divides by alpha_bar", "x_0_from_eps", PARAMETERIZATION)
def _(original: Any) -> Any:
    return lambda x_t, eps, a, b: original(x_t, eps, a, b) / expand(a, x_t)


# the denoiser


@DEFECTS.seed("the network told t instead of t - 1", "Denoiser.network_time", LOSS)
def _(original: Any) -> Any:
    return lambda self, t, x: original(self, t, x) + float(self.settings.time == "step")


@DEFECTS.seed("zero terminal SNR with eps allowed", "check_combination", LOSS)
def _(original: Any) -> Any:
    return lambda settings, schedule: original(settings.model_copy(update={"prediction": "v"}), schedule)


@DEFECTS.seed("variance fraction not mapped to 0..1", "Denoiser.output", LOSS)
def _(original: Any) -> Any:
    def output(self, x_t, t, cond=None):
        mean, fraction = original(self, x_t, t, cond)
        return mean, None if fraction is None else fraction - 0.5

    return output


# the loss


@DEFECTS.seed("min-SNR weight of eps not divided", "loss_weight", LOSS)
def _(original: Any) -> Any:
    def loss_weight(kind, prediction, snr, gamma=5.0):
        return original(kind, "x_0" if prediction == "eps" else prediction, snr, gamma)

    return loss_weight


@DEFECTS.seed("0 / 0 in the eps weight", "loss_weight", LOSS)
def _(original: Any) -> Any:
    def loss_weight(kind, prediction, snr, gamma=5.0):
        if prediction == "eps" and kind != "simple":
            return original(kind, "x_0", snr, gamma) / snr
        return original(kind, prediction, snr, gamma)

    return loss_weight


@DEFECTS.seed("v weight divided by SNR", "loss_weight", LOSS)
def _(original: Any) -> Any:
    def loss_weight(kind, prediction, snr, gamma=5.0):
        if prediction == "v" and kind != "simple":
            return original(kind, "x_0", snr, gamma) / snr
        return original(kind, prediction, snr, gamma)

    return loss_weight


@DEFECTS.seed("min-SNR takes the maximum", "loss_weight", LOSS)
def _(original: Any) -> Any:
    def loss_weight(kind, prediction, snr, gamma=5.0):
        weight = original(kind, prediction, snr, gamma)
        return weight * snr.clamp(min=gamma) / snr.clamp(1e-9, gamma) if kind == "min_snr" else weight

    return loss_weight


@DEFECTS.seed("hybrid loss moves the mean", "denoising_loss", LOSS)
def _(original: Any) -> Any:
    def denoising_loss(*arguments):
        with patch.object(torch.Tensor, "detach", lambda tensor: tensor):
            return original(*arguments)

    return denoising_loss


@DEFECTS.seed("bound in nats", "bound_term", LOSS)
def _(original: Any) -> Any:
    return lambda *arguments: original(*arguments) * math.log(2)


@DEFECTS.seed("no decoder at step one", "bound_term", LOSS)
def _(original: Any) -> Any:
    def bound_term(schedule, x_0, x_0_hat, x_t, t, fraction):
        """At step 1 the posterior's mean is x_0, and the divergence stands where the decoder should."""
        log_posterior, log_beta = posterior_log_variances(schedule.alpha_bars)[0], schedule.beta[0].log()
        log_variance_hat = learned_log_variance(fraction, log_posterior, log_beta)
        divergence = kl_divergence(x_0, expand(log_posterior, x_0), x_0_hat, log_variance_hat)
        first = (t * schedule.steps).round() == 1
        bits = divergence.flatten(1).mean(1) / math.log(2)
        return torch.where(first, bits, original(schedule, x_0, x_0_hat, x_t, t, fraction))

    return bound_term


# what training draws, and what the network sees


@DEFECTS.seed("cosine times from the noisy end twice as fast", "Cosine.draw", TIMES, "cosine")
def _(original: Any) -> Any:
    def draw(self, n, seed, step):
        u = (torch.from_numpy(permutation(n, seed, "strata", step)) + uniform([n], seed, "times", step)) / n
        t, steps = self.schedule.time(-2 * torch.log(torch.tan(math.pi / 4 * u))), self.schedule.steps
        t = t.clamp(min=1e-4) if steps is None else (t * steps).round().clamp(min=1) / steps
        return t, torch.ones_like(t)

    return draw


@DEFECTS.seed("patches come back with the added rows instead of the first", "from_patches", UNET, "patches")
def _(original: Any) -> Any:
    def from_patches(x, patch, size):
        return original(x, patch, (patch * x.shape[-2], patch * x.shape[-1]))[..., -size[0] :, -size[1] :]

    return from_patches


@DEFECTS.seed("the odd edge of a picture filled with zeros", "to_patches", UNET, "patches")
def _(original: Any) -> Any:
    def to_patches(x, patch):
        height, width = x.shape[-2:]
        return original(F.pad(x, (0, -width % patch, 0, -height % patch)), patch)

    return to_patches

"""Law 1: single steps compose to the closed form; the posterior is Bayes' rule; the forms of the reverse mean agree."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from alphabar.diffusion.gaussian import (
    diffuse,
    diffuse_step,
    discretized_log_likelihood,
    kl_divergence,
    learned_log_variance,
    posterior_log_variances,
    posterior_mean,
    posterior_variance,
    reverse_mean_from_eps,
    step_mean,
    stride_beta,
)
from alphabar.diffusion.parameterization import x_0_from_eps
from alphabar.diffusion.schedule import TableSchedule, build_schedule, linear_betas
from alphabar.settings.base import ScheduleSettings

PRESETS = [
    ScheduleSettings(kind=kind, steps=40, zero_terminal_snr=zero)
    for kind in ("linear", "scaled_linear", "cosine", "sigmoid")
    for zero in (False, True)
]


@pytest.mark.parametrize("settings", PRESETS, ids=lambda s: f"{s.kind}-{s.zero_terminal_snr}")
def test_single_steps_compose_to_the_closed_form(settings):
    """Mean and variance of x_t by 40 single steps equal sqrt(alpha_bar) x_0 and 1 - alpha_bar at every step."""
    schedule = build_schedule(settings)
    x_0 = torch.tensor([0.3, -1.7], dtype=torch.float64)
    zero, one = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    mean, variance = x_0, zero
    for k, beta in enumerate(schedule.beta, start=1):
        mean = step_mean(mean, beta)
        kept, added = diffuse_step(one, beta, zero), diffuse_step(zero, beta, one)
        variance = kept**2 * variance + added**2
        alpha_bar = schedule.alpha_bar(k / schedule.steps)
        torch.testing.assert_close(mean, diffuse(x_0, alpha_bar, zero), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(variance, diffuse(zero, alpha_bar, one) ** 2, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("k", "j"), [(1, 0), (2, 1), (20, 19), (40, 39), (40, 10), (7, 3)])
def test_posterior_is_bayes_rule(k, j):
    """q(x_j | x_k, x_0) on a grid of x_j, by q(x_k | x_j) q(x_j | x_0) and a sum, has the mean and the variance of the formulas."""
    schedule = TableSchedule(linear_betas(40))
    alpha_bar, alpha_bar_prev = schedule.alpha_bars[k], schedule.alpha_bars[j]
    x_0, x_t = 0.4, -0.9
    if j == 0:
        expected_mean, expected_variance = x_0, 0.0
    else:
        x = torch.linspace(-8, 8, 200_001, dtype=torch.float64)
        alpha = (alpha_bar / alpha_bar_prev).item()
        log_q = stats.norm.logpdf(x_t, math.sqrt(alpha) * x, math.sqrt(1 - alpha))
        log_q = log_q + stats.norm.logpdf(x, math.sqrt(alpha_bar_prev) * x_0, math.sqrt(1 - alpha_bar_prev))
        q = torch.tensor(log_q).softmax(0)
        expected_mean = (q * x).sum().item()
        expected_variance = (q * (x - expected_mean) ** 2).sum().item()
    mean = posterior_mean(torch.tensor(x_0).double(), torch.tensor(x_t).double(), alpha_bar, alpha_bar_prev)
    assert mean.item() == pytest.approx(expected_mean, rel=1e-6)
    assert posterior_variance(alpha_bar, alpha_bar_prev).item() == pytest.approx(expected_variance, rel=1e-6)


def test_three_forms_of_the_reverse_mean_agree():
    """From x_0, from eps, and by the formula of the derivation with beta_t, alpha_t, alpha_bar_t of the table."""
    schedule = TableSchedule(linear_betas(40))
    x_t, eps = torch.randn(2, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for k in (1, 2, 17, 40):
        alpha_bar, alpha_bar_prev = schedule.alpha_bars[k], schedule.alpha_bars[k - 1]
        from_eps = reverse_mean_from_eps(x_t, eps, alpha_bar, alpha_bar_prev)
        x_0 = x_0_from_eps(x_t, eps, alpha_bar.sqrt(), (1 - alpha_bar).sqrt())
        beta, alpha = schedule.beta[k - 1], schedule.alpha[k - 1]
        written_out = (x_t - beta / (1 - alpha_bar).sqrt() * eps) / alpha.sqrt()
        torch.testing.assert_close(from_eps, written_out, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(
            posterior_mean(x_0, x_t, alpha_bar, alpha_bar_prev), written_out, rtol=1e-9, atol=1e-12
        )


def test_posterior_variance_at_the_first_step_is_exactly_zero_and_below_beta_elsewhere():
    schedule = TableSchedule(linear_betas(40))
    variance = posterior_variance(schedule.alpha_bars[1:], schedule.alpha_bars[:-1])
    assert variance[0] == 0
    assert (variance[1:] > 0).all()
    assert (variance < schedule.beta).all()


def test_log_variance_of_step_one_is_that_of_step_two():
    logs = posterior_log_variances(TableSchedule([0.1, 0.2, 0.3]).alpha_bars)
    assert logs[0] == logs[1]
    assert logs[1].exp().item() == pytest.approx(0.1 / 0.28 * 0.2)
    assert posterior_log_variances(TableSchedule([0.1]).alpha_bars).exp().item() == pytest.approx(0.1)


def test_stride_beta_is_the_noise_of_the_whole_stride():
    schedule = TableSchedule([0.1, 0.2, 0.3])
    assert stride_beta(schedule.alpha_bars[2], schedule.alpha_bars[1]).item() == pytest.approx(0.2)
    assert stride_beta(schedule.alpha_bars[3], schedule.alpha_bars[1]).item() == pytest.approx(1 - 0.8 * 0.7)


def test_zero_terminal_snr_steps_back_without_division_by_zero():
    zero = torch.tensor(0.0, dtype=torch.float64)
    prev = torch.tensor(0.2, dtype=torch.float64)
    x_0, x_t = torch.tensor([1.0]), torch.tensor([5.0])
    assert posterior_mean(x_0, x_t, zero, prev).item() == pytest.approx(math.sqrt(0.2))
    assert posterior_variance(zero, prev).item() == pytest.approx(0.8)


def test_learned_variance_runs_between_its_ends_in_log_space():
    low, high = torch.tensor(0.01).log(), torch.tensor(0.04).log()
    fraction = torch.tensor([0.0, 0.5, 1.0])
    torch.testing.assert_close(learned_log_variance(fraction, low, high).exp(), torch.tensor([0.01, 0.02, 0.04]))


def test_kl_divergence_equals_the_integral():
    mean_1, log_variance_1, mean_2, log_variance_2 = (
        torch.tensor(v, dtype=torch.float64) for v in (0.3, -1.0, -0.5, 0.4)
    )
    reference = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean_1, (0.5 * log_variance_1).exp()),
        torch.distributions.Normal(mean_2, (0.5 * log_variance_2).exp()),
    )
    torch.testing.assert_close(kl_divergence(mean_1, log_variance_1, mean_2, log_variance_2), reference)
    assert kl_divergence(mean_1, log_variance_1, mean_1, log_variance_1) == 0


@pytest.mark.parametrize("mean", [-1.2, 0.0, 0.7])
def test_discretized_likelihood_sums_to_one_with_open_outer_bins(mean):
    levels = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    log_p = discretized_log_likelihood(
        levels, torch.tensor(mean, dtype=torch.float64), torch.tensor(-3.0, dtype=torch.float64)
    )
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-9)
    middle = stats.norm.cdf(levels[128] + 1 / 255, mean, math.exp(-1.5)) - stats.norm.cdf(
        levels[128] - 1 / 255, mean, math.exp(-1.5)
    )
    assert log_p[128].exp().item() == pytest.approx(middle, rel=1e-9)


def test_discretized_likelihood_has_a_floor():
    log_p = discretized_log_likelihood(torch.tensor([0.0]), torch.tensor([0.9]), torch.tensor([-12.0]))
    assert log_p.item() == pytest.approx(math.log(1e-12))

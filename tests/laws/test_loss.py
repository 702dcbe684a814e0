"""The loss: weights that agree across predictions, the bound's terms, and that training minimises what it should."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from alphabar.diffusion.denoiser import Denoiser
from alphabar.diffusion.gaussian import diffuse
from alphabar.diffusion.loss import bound_term, denoising_loss, loss_weight
from alphabar.diffusion.parameterization import target
from alphabar.diffusion.schedule import (
    ContinuousCosineSchedule,
    TableSchedule,
    cosine_betas,
    linear_betas,
    rescale_zero_terminal_snr,
)
from alphabar.errors import ConfigurationError
from alphabar.networks.cond import Cond
from alphabar.settings.base import DiffusionSettings, LossSettings

SNR = torch.tensor([0.0, 1e-4, 0.1, 1.0, 5.0, 80.0], dtype=torch.float64)
SCHEDULE = TableSchedule(linear_betas(50))


@pytest.mark.parametrize("kind", ["min_snr", "snr"])
def test_a_weight_means_the_same_whatever_is_predicted(kind):
    """An error d in x_0 is -a/b d in eps and -d / b in v (up to sign), so weight times squared factor must agree."""
    snr = SNR[1:]
    a2, b2 = snr / (1 + snr), 1 / (1 + snr)
    on_x_0 = loss_weight(kind, "x_0", snr)
    torch.testing.assert_close(loss_weight(kind, "eps", snr) * a2 / b2, on_x_0)
    torch.testing.assert_close(loss_weight(kind, "v", snr) / b2, on_x_0)


def test_min_snr_has_its_published_values():
    torch.testing.assert_close(loss_weight("min_snr", "x_0", SNR), SNR.clamp(max=5))
    torch.testing.assert_close(loss_weight("min_snr", "eps", SNR)[-1], torch.tensor(5 / 80, dtype=torch.float64))
    torch.testing.assert_close(loss_weight("min_snr", "v", SNR), SNR.clamp(max=5) / (SNR + 1))


@pytest.mark.parametrize("kind", ["simple", "min_snr", "snr"])
@pytest.mark.parametrize("prediction", ["eps", "x_0", "v"])
def test_weights_are_finite_at_zero_snr(kind, prediction):
    assert loss_weight(kind, prediction, SNR).isfinite().all()


def test_snr_weight_on_eps_and_simple_are_one():
    assert (loss_weight("snr", "eps", SNR) == 1).all()
    assert (loss_weight("simple", "x_0", SNR) == 1).all()


def test_unknown_weight_suggests_the_nearest():
    with pytest.raises(ConfigurationError, match="did you mean 'min_snr'"):
        loss_weight("minsnr", "eps", SNR)


class Fixed(nn.Module):
    """A network that always says the same."""

    def __init__(self, output):
        super().__init__()
        self.output = nn.Parameter(output)

    def forward(self, x, time, cond: Cond):
        return self.output


@pytest.mark.parametrize("prediction", ["eps", "x_0", "v"])
def test_a_perfect_network_has_no_loss_and_another_has_its_squared_error(prediction):
    x_0, eps = torch.randn(2, 6, 3)
    t = torch.tensor([0.02, 0.2, 0.4, 0.6, 0.8, 1.0], dtype=torch.float64)
    perfect = target(prediction, x_0, eps, SCHEDULE.signal(t), SCHEDULE.noise(t))
    settings = DiffusionSettings(prediction=prediction)
    assert (
        denoising_loss(Denoiser(Fixed(perfect), SCHEDULE, settings), x_0, t, eps, None, LossSettings())
        .total.abs()
        .max()
        < 1e-10
    )
    off = denoising_loss(Denoiser(Fixed(perfect + 0.5), SCHEDULE, settings), x_0, t, eps, None, LossSettings())
    torch.testing.assert_close(off.total, torch.full((6,), 0.25))
    weighted = denoising_loss(
        Denoiser(Fixed(perfect + 0.5), SCHEDULE, settings), x_0, t, eps, None, LossSettings(weight="min_snr")
    )
    torch.testing.assert_close(weighted.total, 0.25 * loss_weight("min_snr", prediction, SCHEDULE.snr(t)).float())
    torch.testing.assert_close(weighted.squared_error, torch.full((6,), 0.25))


def test_bound_term_is_zero_for_the_true_posterior_and_the_decoder_at_step_one():
    x_0 = (torch.randint(0, 256, (4, 200)).float() / 127.5 - 1).clamp(-1, 1)
    t = torch.tensor([0.02, 0.04, 0.5, 1.0], dtype=torch.float64)
    x_t = diffuse(x_0, SCHEDULE.alpha_bar(t), torch.randn(4, 200))
    bits = bound_term(SCHEDULE, x_0, x_0, x_t, t, torch.zeros(4, 200))
    torch.testing.assert_close(bits[1:], torch.zeros(3), rtol=0, atol=1e-5)
    assert bits[0] > 0
    wrong = bound_term(SCHEDULE, x_0, x_0 + 0.1, x_t, t, torch.zeros(4, 200))
    assert (wrong > bits).all()


def test_bound_term_of_a_wrong_variance_is_the_kl_in_bits():
    x_0 = torch.zeros(1, 3)
    t = torch.tensor([0.5], dtype=torch.float64)
    bits = bound_term(SCHEDULE, x_0, x_0, x_0, t, torch.ones(1, 3))
    posterior = ((1 - SCHEDULE.alpha_bars[24]) / (1 - SCHEDULE.alpha_bars[25]) * SCHEDULE.beta[24]).item()
    ratio = posterior / SCHEDULE.beta[24].item()
    assert bits.item() == pytest.approx(0.5 * (ratio - 1 - math.log(ratio)) / math.log(2), rel=1e-3)


def test_hybrid_loss_moves_the_mean_by_the_simple_loss_only():
    x_0, eps = torch.randn(2, 4, 2, 3, 3)
    t = torch.tensor([0.02, 0.1, 0.5, 1.0], dtype=torch.float64)
    gradients = []
    for vlb_weight in (0.0, 1.0):
        network = Fixed(torch.full((4, 4, 3, 3), 0.1))
        denoiser = Denoiser(network, SCHEDULE, DiffusionSettings(learned_variance=True))
        denoising_loss(denoiser, x_0, t, eps, None, LossSettings(vlb_weight=vlb_weight)).total.sum().backward()
        gradients.append(network.output.grad)
    torch.testing.assert_close(gradients[0][:, :2], gradients[1][:, :2])
    assert (gradients[0][:, 2:] == 0).all()
    assert (gradients[1][:, 2:] != 0).any()


def test_hybrid_weight_counts_all_steps():
    x_0, eps, t = torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), torch.tensor([0.5], dtype=torch.float64)
    denoiser = Denoiser(
        Fixed(torch.cat([torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)], 1)),
        SCHEDULE,
        DiffusionSettings(learned_variance=True),
    )
    loss = denoising_loss(denoiser, x_0, t, eps, None, LossSettings(vlb_weight=0.1))
    bits = bound_term(SCHEDULE, x_0, x_0, x_0, t, torch.ones(1, 1, 2, 2))
    torch.testing.assert_close(loss.total, 0.1 * 50 * bits)


class Remember(nn.Module):
    def forward(self, x, time, cond):
        self.time = time
        return torch.zeros_like(x)


def test_the_network_is_told_the_table_index_or_the_log_snr():
    network = Remember()
    t = torch.tensor([1 / 50, 0.5, 0.51, 1.0], dtype=torch.float64)
    Denoiser(network, SCHEDULE).output(torch.zeros(4, 1), t)
    torch.testing.assert_close(network.time, torch.tensor([0.0, 24.0, 24.5, 49.0]))
    Denoiser(network, SCHEDULE, DiffusionSettings(time="log_snr")).output(torch.zeros(4, 1), t)
    torch.testing.assert_close(network.time, (25 * (20 - SCHEDULE.log_snr(t))).float())
    assert (network.time.diff() > 0).all()


def test_log_snr_time_is_finite_at_zero_terminal_snr():
    network = Remember()
    schedule = TableSchedule(rescale_zero_terminal_snr(cosine_betas(50)))
    Denoiser(network, schedule, DiffusionSettings(time="log_snr", prediction="v")).output(torch.zeros(1, 1), 1.0)
    assert network.time.item() == 1000


def test_combinations_that_cannot_work_are_refused_with_a_way_out():
    with pytest.raises(ConfigurationError, match=r"use diffusion\.prediction=v"):
        Denoiser(Remember(), TableSchedule([0.1, 1.0]))
    with pytest.raises(ConfigurationError, match=r"diffusion\.time=log_snr"):
        Denoiser(Remember(), ContinuousCosineSchedule())
    with pytest.raises(ConfigurationError, match="learned variance"):
        Denoiser(Remember(), ContinuousCosineSchedule(), DiffusionSettings(time="log_snr", learned_variance=True))

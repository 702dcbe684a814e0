"""Law 2 for stochastic samplers: on Gaussian data mean and covariance of x follow a recursion in closed form, written out here from the
papers' formulas and not from the code; and samples of a mixture have the weights of the data, the better the more steps there are."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from alphabar.diffusion.schedule import Schedule, build_schedule
from alphabar.samplers.ancestral import Ancestral
from alphabar.samplers.base import last_state, sample_states, walk
from alphabar.samplers.ddim import DDIM
from alphabar.samplers.dpm_2m_sde import DPMSolver2MSDE
from alphabar.samplers.grids import time_grid
from alphabar.samplers.methods import Options, build_sampler
from alphabar.settings.base import ScheduleSettings

from .exact import CorrelatedGaussian, GaussianMixture

MEAN = torch.tensor([0.6, -0.3]).double()
COVARIANCE = torch.tensor([[0.3, 0.18], [0.18, 0.2]]).double()
EYE = torch.eye(2).double()
LINEAR = ScheduleSettings()
ZERO = ScheduleSettings(kind="sigmoid", zero_terminal_snr=True)

# x_s = P x_t + Q x_0_hat(t) + R x_0_hat(time before) + sigma z, as numbers (P, Q, R, sigma) from alpha_bar of before, t and s
Step = Callable[[float | None, float, float], tuple[float, float, float, float]]


def posterior_step(variance: str) -> Step:
    """Ho et al. 2020, eq. 6 and 7, of a stride: beta = 1 - alpha_bar_t / alpha_bar_s."""

    def step(before, t, s):
        beta = 1 - t / s
        kept, said = math.sqrt(1 - beta) * (1 - s) / (1 - t), math.sqrt(s) * beta / (1 - t)
        noise = beta if variance == "beta" else (1 - s) / (1 - t) * beta
        return kept, said, 0.0, math.sqrt(noise) if s < 1 else 0.0

    return step


def ddim_step(eta: float) -> Step:
    """Song et al. 2021a, eq. 12 and 16."""

    def step(before, t, s):
        noise = eta**2 * (1 - s) / (1 - t) * (1 - t / s)
        towards = math.sqrt(1 - s - noise) / math.sqrt(1 - t)  # of x_t - a_t x_0_hat
        return towards, math.sqrt(s) - towards * math.sqrt(t), 0.0, math.sqrt(noise)

    return step


def sde_step(before, t, s):
    """Lu et al. 2022b, eq. 18 and algorithm 4: the estimate in the middle of the step, by a line through the last two."""
    if s == 1 or t == 0:
        return posterior_step("posterior")(before, t, s)
    h = half_log_snr(s) - half_log_snr(t)
    share = 0.0 if not before else h / (2 * (half_log_snr(t) - half_log_snr(before)))
    gain, noise = math.sqrt(s) * (1 - math.exp(-2 * h)), math.sqrt((1 - s) * (1 - math.exp(-2 * h)))
    return math.sqrt((1 - s) / (1 - t)) * math.exp(-h), gain * (1 + share), -gain * share, noise


def half_log_snr(alpha_bar: float) -> float:
    return math.log(alpha_bar / (1 - alpha_bar)) / 2


SAMPLERS: dict[str, tuple[Callable, Step]] = {
    "ancestral": (Ancestral, posterior_step("posterior")),
    "ancestral-beta": (lambda: Ancestral("beta"), posterior_step("beta")),
    "ddim-0.5": (lambda: DDIM(0.5), ddim_step(0.5)),
    "ddim-1": (lambda: DDIM(1.0), ddim_step(1.0)),
    "sde": (DPMSolver2MSDE, sde_step),
}


def recursion(step: Step, schedule: Schedule, times: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (2,) and covariance (2, 2) of x at the end, for x_0_hat = m + K (x_t - a m), K = a C (a^2 C + b^2 I)^-1.

    The estimate before is carried along: the state is (x, x_0_hat of the visit before), of which each step is an affine map.
    """
    m, cov = torch.zeros(4).double(), torch.block_diag(EYE, 0 * EYE)
    before = None
    for t, s in pairwise(schedule.alpha_bar(times).tolist()):
        p, q, r, sigma = step(before, t, s)
        a = math.sqrt(t)
        gain = a * COVARIANCE @ torch.linalg.inv(t * COVARIANCE + (1 - t) * EYE)
        offset = MEAN - gain @ (a * MEAN)
        matrix = torch.cat([torch.cat([p * EYE + q * gain, r * EYE], 1), torch.cat([gain, 0 * EYE], 1)])
        m = matrix @ m + torch.cat([q * offset, offset])
        cov = matrix @ cov @ matrix.T + torch.block_diag(sigma**2 * EYE, 0 * EYE)
        before = t
    return m[:2], cov[:2, :2]


def spread(sampler, schedule: Schedule, times: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of what a sampler gives, without drawing: its result is affine in the noise of the start and of each step,
    so row 0 has no noise and every other row one unit of it, in one place."""
    draws = 2 * len(times)
    units = torch.cat([torch.zeros(1, draws), torch.eye(draws)]).double().reshape(-1, len(times), 2)
    states = walk(
        sampler,
        CorrelatedGaussian(schedule, MEAN, COVARIANCE),
        units[:, 0],
        times,
        lambda i: lambda stream="sample": units[:, i],
    )
    x = last_state(states).x_t
    return x[0], (x[1:] - x[0]).T @ (x[1:] - x[0])


@pytest.mark.parametrize("steps", [1, 2, 6, 25])
@pytest.mark.parametrize("grid", ["trailing", "log_snr"])
@pytest.mark.parametrize("settings", [LINEAR, ZERO], ids=["linear", "sigmoid-zero"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_stochastic_samplers_follow_their_closed_form_recursion(name, settings, grid, steps):
    schedule = build_schedule(settings)
    times = time_grid(grid, schedule, steps)
    make, step = SAMPLERS[name]
    for found, expected in zip(spread(make(), schedule, times), recursion(step, schedule, times), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_recursion_approaches_the_data_as_steps_grow(name):
    schedule = build_schedule(LINEAR)
    errors = []
    for steps in (8, 24, 72):
        mean, covariance = recursion(SAMPLERS[name][1], schedule, time_grid("log_snr", schedule, steps))
        errors.append(((mean - MEAN).abs().max() + (covariance - COVARIANCE).abs().max()).item())
    assert errors[2] < min(errors[0] / 2, 0.04), errors


def test_drawn_samples_have_the_mean_and_covariance_of_the_recursion():
    """With noise as it is drawn for users. Standard errors: mean sqrt(c_ii / n), covariance sqrt((c_ii c_jj + c_ij^2) / n); bounds at 5."""
    schedule, n = build_schedule(LINEAR), 4000
    times = time_grid("trailing", schedule, 12)
    mean, c = recursion(sde_step, schedule, times)
    exact = CorrelatedGaussian(schedule, MEAN, COVARIANCE)
    x = last_state(sample_states(DPMSolver2MSDE(), exact, times, range(n), [2])).x_t.double()
    assert ((x.mean(0) - mean).abs() < 5 * (c.diagonal() / n).sqrt()).all()
    error = ((c.diagonal()[:, None] * c.diagonal() + c**2) / n).sqrt()
    assert ((x.T.cov() - c).abs() < 5 * error).all()


@pytest.mark.parametrize("name", ["ancestral", "dpm++2m-sde"])
def test_stochastic_samplers_approach_the_weights_of_the_data_as_steps_grow(name):
    """A tenth of the data is in a narrow mode: a few steps leave too little there."""
    schedule, weight, n = build_schedule(LINEAR), 0.1, 4000
    means = torch.tensor([[-1.0, 0.5], [0.8, -0.6]])
    exact = GaussianMixture(schedule, means, torch.tensor([0.1, 0.4]), torch.tensor([weight, 1 - weight]))
    errors = []
    for steps in (3, 10, 120):
        times = time_grid("trailing", schedule, steps)
        x = last_state(sample_states(build_sampler(name, Options()), exact, times, range(n), [2])).x_t
        errors.append(abs((x[:, 0] < -0.4).double().mean().item() - weight))
    assert errors[0] > errors[1] > errors[2], errors
    assert errors[2] < 5 * math.sqrt(weight * (1 - weight) / n), errors

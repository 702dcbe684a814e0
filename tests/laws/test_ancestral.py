"""Law 2, ancestral part: with an exact denoiser, samples have the sampler's own closed-form moments, and the data's as T grows."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from alphabar.diffusion.gaussian import posterior_variance, stride_beta
from alphabar.diffusion.parameterization import Prediction, eps_from_x_0
from alphabar.diffusion.schedule import (
    ContinuousCosineSchedule,
    TableSchedule,
    build_schedule,
    cosine_betas,
    linear_betas,
)
from alphabar.errors import ConfigurationError
from alphabar.samplers.ancestral import Ancestral
from alphabar.samplers.base import last_state, sample_states
from alphabar.samplers.clip import Clipped, dynamic_threshold
from alphabar.samplers.grids import time_grid, trailing_times
from alphabar.settings.base import ScheduleSettings

from .exact import GaussianMixture, gaussian

N = 400  # seeds; each has a vector of DIM independent numbers
DIM = 160


def draw(denoiser, variance, steps, n=N, dim=DIM):
    times = trailing_times(denoiser.schedule, steps)
    return last_state(sample_states(Ancestral(variance), denoiser, times, range(n), [dim])).x_t


def closed_form(schedule, variance, steps, mean, deviation):
    """Mean and variance of x along the sampler's own recursion: x_s = P x_t + Q E[x_0 | x_t] + sigma z, all of it linear."""
    m, v = 0.0, 1.0
    times = trailing_times(schedule, steps)
    for t, s in pairwise(times):
        ab, ab_prev = schedule.alpha_bar(t).item(), schedule.alpha_bar(s).item()
        alpha = ab / ab_prev
        on_x_t = math.sqrt(alpha) * (1 - ab_prev) / (1 - ab)
        on_x_0 = math.sqrt(ab_prev) * (1 - alpha) / (1 - ab)
        gain = math.sqrt(ab) * deviation**2 / (ab * deviation**2 + 1 - ab)
        slope = on_x_t + on_x_0 * gain
        noise = 0.0 if s == 0 else (1 - alpha) * ((1 - ab_prev) / (1 - ab) if variance == "posterior" else 1.0)
        m, v = slope * m + on_x_0 * (mean - gain * math.sqrt(ab) * mean), slope**2 * v + noise
    return m, v


@pytest.mark.parametrize("variance", ["posterior", "beta"])
@pytest.mark.parametrize(
    "settings",
    [
        ScheduleSettings(steps=50),
        ScheduleSettings(kind="cosine", steps=50),
        ScheduleSettings(kind="sigmoid", steps=30, zero_terminal_snr=True),
    ],
    ids=str,
)
@pytest.mark.parametrize("steps", [7, 30])
def test_samples_of_gaussian_data_have_the_moments_of_the_recursion(settings, variance, steps):
    """Standard errors: mean sqrt(v / n), variance v sqrt(2 / n); bounds at 5 of them."""
    schedule = build_schedule(settings)
    x = draw(gaussian(schedule, 0.6, 0.5, DIM), variance, steps)
    mean, v = closed_form(schedule, variance, steps, 0.6, 0.5)
    n = x.numel()
    assert x.mean().item() == pytest.approx(mean, abs=5 * math.sqrt(v / n))
    assert x.var().item() == pytest.approx(v, abs=5 * v * math.sqrt(2 / n))


def test_unit_variance_comes_out_as_0_854_at_fifty_steps_and_approaches_one():
    assert closed_form(TableSchedule(linear_betas(50)), "posterior", 50, 0.0, 1.0)[1] == pytest.approx(0.854, abs=5e-4)
    errors = [
        abs(closed_form(TableSchedule(linear_betas(T)), "posterior", T, 0.0, 1.0)[1] - 1) for T in (50, 200, 1000)
    ]
    assert errors[0] > 3 * errors[1] > 9 * errors[2]


def test_mixture_weights_and_modes_are_those_of_the_data():
    """Two modes of unequal weight at 200 steps: weights within Monte-Carlo error and discretisation, modes in place."""
    schedule = TableSchedule(cosine_betas(200))
    mixture = GaussianMixture(
        schedule, torch.tensor([[-1.0, 0.5], [0.8, -0.6]]), torch.tensor([0.2, 0.2]), torch.tensor([0.3, 0.7])
    )
    x = draw(mixture, "posterior", 200, n=1500, dim=2)
    left = x[:, 0] < 0
    assert left.float().mean().item() == pytest.approx(0.3, abs=0.04)
    for mask, k in ((left, 0), (~left, 1)):
        torch.testing.assert_close(x[mask].mean(0).double(), mixture.means[k], atol=0.03, rtol=0)
        assert x[mask].std(0).mean().item() == pytest.approx(0.2, abs=0.03)


def test_a_known_picture_is_reached_exactly_and_without_noise_at_the_end():
    """With a denoiser that always says x_0 = c, the last step returns c itself, whatever the variance."""
    schedule = TableSchedule(linear_betas(25))

    class Constant:
        def __init__(self):
            self.schedule = schedule

        def __call__(self, x_t, t, cond=None):
            x_0 = torch.full_like(x_t, 0.25)
            return Prediction(x_0, eps_from_x_0(x_t, x_0, schedule.signal(t), schedule.noise(t)), torch.ones_like(x_t))

    for variance in ("posterior", "beta", "learned"):
        for steps in (1, 2, 25):
            assert torch.equal(draw(Constant(), variance, steps, n=3), torch.full((3, DIM), 0.25))


@pytest.mark.parametrize(("fraction", "same_as"), [(0.0, "posterior"), (1.0, "beta")])
def test_learned_variance_at_its_ends_is_the_fixed_ones(fraction, same_as):
    schedule = TableSchedule(linear_betas(25))
    exact = gaussian(schedule, 0.1, 0.4, DIM)

    class Learned:
        def __init__(self):
            self.schedule = schedule

        def __call__(self, x_t, t, cond=None):
            prediction = exact(x_t, t)
            return Prediction(prediction.x_0, prediction.eps, torch.full_like(x_t, fraction))

    torch.testing.assert_close(draw(Learned(), "learned", 10, n=20), draw(exact, same_as, 10, n=20))


def test_the_noise_of_a_stride_is_that_of_the_stride():
    schedule = TableSchedule(linear_betas(100))
    ab, ab_prev = schedule.alpha_bar(1.0), schedule.alpha_bar(0.8)
    prediction = Prediction(torch.zeros(1, 1), torch.zeros(1, 1))
    assert Ancestral("beta").deviation(prediction, ab, ab_prev).item() ** 2 == pytest.approx(
        stride_beta(ab, ab_prev).item(), rel=1e-5
    )
    assert Ancestral("posterior").deviation(prediction, ab, ab_prev).item() ** 2 == pytest.approx(
        posterior_variance(ab, ab_prev).item(), rel=1e-5
    )


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 999, 1000])
def test_trailing_grid_starts_at_noise_ends_at_data_and_stays_on_the_table(steps):
    times = trailing_times(TableSchedule(linear_betas(1000)), steps)
    k = times * 1000
    assert len(times) == steps + 1
    assert times[0] == 1
    assert times[-1] == 0
    assert (times.diff() < 0).all()
    torch.testing.assert_close(k, k.round(), rtol=0, atol=1e-9)
    strides = -k.diff()
    assert strides.max() - strides.min() <= 1 + 1e-9


def test_more_steps_than_the_table_are_refused_but_not_on_a_continuous_schedule():
    with pytest.raises(ConfigurationError, match=r"T = 10 steps, so at most 10 .*got 11"):
        time_grid("trailing", TableSchedule(linear_betas(100)[:10]), 11)
    assert len(time_grid("trailing", ContinuousCosineSchedule(), 5000)) == 5001
    with pytest.raises(ConfigurationError, match="at least 1"):
        time_grid("trailing", ContinuousCosineSchedule(), 0)


def test_a_continuous_schedule_samples_with_the_same_sampler():
    x = draw(gaussian(ContinuousCosineSchedule(), 0.6, 0.5, DIM), "posterior", 300, n=50)
    assert x.mean().item() == pytest.approx(0.6, abs=0.03)
    assert x.std().item() == pytest.approx(0.5, abs=0.03)


def test_learned_variance_without_one_says_so():
    with pytest.raises(ConfigurationError, match="did not learn its variance"):
        draw(gaussian(TableSchedule(linear_betas(25))), "learned", 5, n=1, dim=1)


def test_unknown_variance_suggests_the_nearest():
    with pytest.raises(ConfigurationError, match="did you mean 'posterior'"):
        Ancestral("posteriour")


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_clipping_keeps_x_0_in_range_and_derives_eps_again(mode):
    schedule = TableSchedule(linear_betas(25))
    clipped = Clipped(gaussian(schedule, 3.0, 1.0, DIM), mode)
    x_t, t = torch.randn(5, DIM, generator=torch.Generator().manual_seed(0)) * 2, torch.tensor(0.4)
    prediction = clipped(x_t, t)
    assert prediction.x_0.abs().max() <= 1
    a, b = schedule.signal(t).float(), schedule.noise(t).float()
    torch.testing.assert_close(a * prediction.x_0 + b * prediction.eps, x_t)


def test_clip_off_changes_nothing():
    exact = gaussian(TableSchedule(linear_betas(25)), 3.0, 1.0, DIM)
    x_t = torch.randn(2, DIM)
    assert torch.equal(Clipped(exact, "off")(x_t, 0.4).x_0, exact(x_t, 0.4).x_0)


def test_dynamic_threshold_scales_by_the_quantile_of_each_picture_and_never_enlarges():
    x = torch.tensor([[0.1, -0.2, 0.3, 0.4], [4.0, -2.0, 1.0, 0.0]])
    out = dynamic_threshold(x, 1.0)
    torch.testing.assert_close(out, torch.tensor([[0.1, -0.2, 0.3, 0.4], [1.0, -0.5, 0.25, 0.0]]))


def test_a_sample_depends_on_its_own_seed_only():
    """Law 6: alone, in another batch or in another order, the noise is the same to the bit."""
    exact = gaussian(TableSchedule(linear_betas(25)), 0.0, 0.5, DIM)
    times = trailing_times(exact.schedule, 10)
    run = lambda seeds: last_state(sample_states(Ancestral(), exact, times, seeds, [DIM])).x_t  # noqa: E731
    together, alone, reordered = run([3, 4, 5]), run([4]), run([5, 4])
    assert torch.equal(together[1], alone[0])
    assert torch.equal(together[2], reordered[0])
    assert not torch.equal(run([3])[0], run([4])[0])

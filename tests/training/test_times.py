from __future__ import annotations

import math

import pytest
import torch

from alphabar.diffusion.schedule import ContinuousCosineSchedule, TableSchedule, linear_betas
from alphabar.errors import ConfigurationError
from alphabar.training.times import TIME_SAMPLERS, Importance, Stratified, build_time_sampler

TABLE = TableSchedule(linear_betas(40))


UNIFORM = sorted(set(TIME_SAMPLERS) - {"cosine"})


@pytest.mark.parametrize("kind", UNIFORM)
def test_every_step_of_the_table_is_drawn_equally_often_and_nothing_else(kind):
    sampler = build_time_sampler(kind, TABLE)
    t = torch.cat([sampler.draw(64, 0, step)[0] for step in range(250)])
    k = t * 40
    torch.testing.assert_close(k, k.round(), rtol=0, atol=1e-9)
    counts = torch.bincount(k.round().long(), minlength=41)
    assert counts[0] == 0
    assert len(counts) == 41
    assert (counts[1:] - 400).abs().max() < 5 * 20


@pytest.mark.parametrize("kind", TIME_SAMPLERS)
def test_a_continuous_schedule_draws_real_times_in_its_range(kind):
    t = build_time_sampler(kind, ContinuousCosineSchedule()).draw(1000, 0, 0)[0]
    assert 0 < t.min() < 0.02
    assert 0.98 < t.max() <= 1
    assert len(t.unique()) == 1000


@pytest.mark.parametrize("kind", TIME_SAMPLERS)
def test_draws_are_a_function_of_seed_and_step(kind):
    draw = lambda seed, step: build_time_sampler(kind, TABLE).draw(16, seed, step)[0]  # noqa: E731
    assert torch.equal(draw(1, 2), draw(1, 2))
    assert not torch.equal(draw(1, 2), draw(1, 3))
    assert not torch.equal(draw(1, 2), draw(2, 2))


@pytest.mark.parametrize("steps", [1000, 100_000])
def test_cosine_draws_the_noise_levels_of_a_cosine_schedule_on_the_grid_of_any_other(steps):
    """The quantiles of log-SNR are those of -2 log tan(pi u / 2), as far as the table reaches."""
    schedule = TableSchedule(linear_betas(steps))
    sampler = build_time_sampler("cosine", schedule)
    t, weight = (torch.cat(parts) for parts in zip(*[sampler.draw(64, 0, step) for step in range(200)], strict=True))
    torch.testing.assert_close(t * steps, (t * steps).round(), rtol=0, atol=1e-9)
    assert float(t.min() * steps) == pytest.approx(1)
    assert float(t.max()) <= 1
    assert torch.equal(weight, torch.ones_like(weight))
    for u in (0.1, 0.25, 0.5, 0.75, 0.9):
        expected = -2 * math.log(math.tan(math.pi / 2 * (1 - u)))
        assert float(schedule.log_snr(t).quantile(u)) == pytest.approx(expected, abs=0.05)


def test_each_picture_draws_its_own_time():
    assert len(build_time_sampler("uniform", TABLE).draw(16, 0, 0)[0].unique()) > 4


def test_stratified_takes_one_time_in_each_part_and_deals_them_at_random():
    t = Stratified(TABLE).draw(40, 0, 0)[0]
    assert torch.equal(t.sort().values, torch.arange(1, 41, dtype=torch.float64) / 40)
    assert not torch.equal(t, t.sort().values)


def fill(sampler: Importance, losses: torch.Tensor) -> None:
    for _ in range(10):
        sampler.update(torch.arange(1, 41, dtype=torch.float64) / 40, losses)


def test_importance_is_uniform_until_every_step_has_its_history_then_follows_the_root_of_the_mean_square():
    sampler = Importance(TABLE)
    losses = torch.linspace(0.1, 4.0, 40).double()
    assert torch.allclose(sampler.probabilities(), torch.full((40,), 1 / 40).double())
    for _ in range(9):
        sampler.update(torch.arange(1, 41, dtype=torch.float64) / 40, losses)
    assert torch.allclose(sampler.probabilities(), torch.full((40,), 1 / 40).double())
    sampler.update(torch.arange(1, 41, dtype=torch.float64) / 40, losses)
    expected = 0.999 * losses / losses.sum() + 0.001 / 40
    torch.testing.assert_close(sampler.probabilities(), expected)


def test_importance_weights_leave_the_mean_unbiased():
    """E[weight L(t)] over draws equals the mean of L over all steps."""
    sampler = Importance(TABLE)
    losses = torch.linspace(0.1, 4.0, 40).double()
    fill(sampler, losses)
    values = []
    for step in range(400):
        t, weight = sampler.draw(64, 0, step)
        values.append((weight * losses[(t * 40).round().long() - 1]).mean())
    assert torch.stack(values).mean().item() == pytest.approx(losses.mean().item(), rel=0.01)


def test_importance_keeps_the_newest_losses_of_the_right_step():
    sampler = Importance(TABLE)
    for value in range(12):
        sampler.update(torch.tensor([7 / 40]).double(), torch.tensor([float(value)]))
    assert sampler.losses[6].tolist() == [float(v) for v in range(2, 12)]
    assert sampler.losses[5].sum() == sampler.losses[7].sum() == 0


def test_importance_bins_of_a_continuous_schedule_are_those_it_draws_from():
    sampler = Importance(ContinuousCosineSchedule())
    t, _ = sampler.draw(500, 0, 0)
    sampler.update(t, torch.ones(500))
    assert sampler.counts.sum() > 400
    heavy = torch.zeros(100, 10).double()
    heavy[30] = 1.0
    sampler.load_state_dict({"losses": heavy, "counts": torch.full((100,), 10)})
    t, _ = sampler.draw(200, 0, 1)
    sampler.counts.zero_()
    sampler.update(t, torch.ones(200))
    assert sampler.counts[30] == 10
    assert sampler.counts.sum() <= 10 + 3


def test_unknown_kind_suggests_the_nearest():
    with pytest.raises(ConfigurationError, match="did you mean 'stratified'"):
        build_time_sampler("stratify", TABLE)

"""What chance decides in a step is keyed by item: it does not depend on how many items there are, nor on how they are divided."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from alphabar.diffusion.schedule import TableSchedule, linear_betas
from alphabar.training.draw import Chance
from alphabar.training.times import build_time_sampler


def chance(n: int = 64, times: str = "uniform", **changes) -> Chance:
    sampler = build_time_sampler(times, TableSchedule(linear_betas(1000)))
    return Chance(0, n, 1000, (3, 8, 8), sampler, True, {"class": 0.3, "text": 0.5}, 0.1, **changes)


@pytest.mark.parametrize("step", [0, 7])
def test_an_item_draws_the_same_in_any_batch(step):
    """Which items an epoch visits depends on the batch, as it must; all else does not."""
    few, many = chance(8).draw(step), chance(64).draw(step)
    first = many.part(slice(0, 8))
    assert torch.equal(few.eps, first.eps)
    assert torch.equal(few.t, first.t)
    assert np.array_equal(few.mirrored, first.mirrored)
    assert few.keys == first.keys
    assert all(torch.equal(few.dropped[name], first.dropped[name]) for name in ("class", "text"))


def test_items_steps_and_seeds_draw_apart():
    one = chance()
    others = (one.draw(1).eps, replace(one, seed=1).draw(0).eps, one.draw(0).eps.roll(1, 0))
    for other in others:
        correlation = torch.corrcoef(torch.stack([one.draw(0).eps.flatten(), other.flatten()]))[0, 1]
        assert abs(float(correlation)) < 5 / one.draw(0).eps.numel() ** 0.5


def test_noise_is_standard_normal_and_conditions_are_dropped_at_their_rate():
    draws = [chance().draw(step) for step in range(40)]
    noise = torch.cat([draw.eps.flatten() for draw in draws]).numpy()
    assert stats.kstest(noise[::7], "norm").pvalue > 1e-3
    together, n = 0.1, 40 * 64
    for name, share in (("class", 0.3), ("text", 0.5)):
        hidden = float(torch.cat([draw.dropped[name] for draw in draws]).double().mean())
        expected = 1 - (1 - share) * (1 - together)
        assert abs(hidden - expected) < 4 * (expected * (1 - expected) / n) ** 0.5


@pytest.mark.parametrize("times", ["uniform", "stratified", "cosine", "importance"])
def test_a_draw_is_the_same_when_it_is_drawn_again(times):
    one, again = (chance(times=times).draw(5) for _ in range(2))
    for name in ("t", "weight", "eps"):
        assert torch.equal(getattr(one, name), getattr(again, name))
    assert (one.dropout, one.step) == (again.dropout, 5)
    assert one.part(slice(0, 2)).step == 5
    assert np.array_equal(one.items, again.items)


def test_parts_of_a_draw_make_the_whole():
    whole = chance(10).draw(2)
    parts = [whole.part(slice(start, start + 4)) for start in range(0, 10, 4)]
    assert torch.equal(torch.cat([part.eps for part in parts]), whole.eps)
    assert np.array_equal(np.concatenate([part.items for part in parts]), whole.items)
    assert [key for part in parts for key in part.keys] == list(whole.keys)

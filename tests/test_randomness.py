"""Random numbers are a function of their key."""

from __future__ import annotations

import torch

from alphabar.randomness import derive_seeds, normal, normal_rows, permutation, uniform


def test_the_same_key_gives_the_same_numbers_and_another_key_others():
    assert torch.equal(normal([5], 1, "noise", 2), normal([5], 1, "noise", 2))
    keys = [(1, "noise", 2), (1, "noise", 3), (2, "noise", 2), (1, "times", 2), (12, "noise"), (1, 2, "noise")]
    draws = [normal([5], *key) for key in keys]
    assert len({tuple(draw.tolist()) for draw in draws}) == len(keys)


def test_rows_equal_single_draws_to_the_bit():
    keys = [(seed, "sample", 3) for seed in (7, 0, 2**60)]
    rows = normal_rows([3, 5], keys)
    assert torch.equal(rows, torch.stack([normal([3, 5], *key) for key in keys]))
    assert normal_rows([2, 0], []).shape == (0, 2, 0)


def test_neighbouring_seeds_and_steps_are_uncorrelated():
    x = torch.stack([normal([20_000], seed, "sample", step) for seed in range(4) for step in range(4)])
    correlation = torch.corrcoef(x) - torch.eye(16)
    assert correlation.abs().max() < 5 / 20_000**0.5
    assert abs(x.mean()) < 0.01
    assert abs(x.std() - 1) < 0.01


def test_uniform_and_permutation_have_their_ranges():
    u = uniform([10_000], 0, "u")
    assert u.dtype == torch.float64
    assert u.min() >= 0
    assert u.max() < 1
    assert sorted(permutation(50, 1, "p")) == list(range(50))


def test_derived_seeds_do_not_collide_across_neighbouring_seeds():
    assert len({s for seed in range(50) for s in derive_seeds(seed, 1000)}) == 50_000

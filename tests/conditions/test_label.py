"""Classes: a learned row each, one more for null; unknown ones are named."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from alphabar.errors import ConfigurationError

from .making import encoder

NAMES = ["cat", "dog", "猫", "a:b", "x, y"]


def test_each_class_has_a_row_of_its_own_and_null_one_more():
    built = encoder("class", classes=NAMES)
    assert built.embedding.weight.shape == (6, 16)
    values = built.read(["猫", None, "cat", "x, y"], [])
    assert values.tolist() == [2, 5, 0, 4]
    assert torch.equal(built(values, 4).vector, built.embedding.weight[[2, 5, 0, 4]])
    assert torch.equal(built(None, 2).vector, built.embedding.weight[[5, 5]])
    assert len({tuple(row.tolist()) for row in built.embedding.weight}) == 6


def test_numbers_may_come_from_data_as_tensors_or_arrays():
    built = encoder("class", classes=NAMES)
    for values in (torch.tensor([1, 0]), np.array([1, 0]), np.array([1, 0], np.int32)):
        assert torch.equal(built(values, 2).vector, built.embedding.weight[[1, 0]])


def test_a_dropped_class_trains_the_null_row_and_not_its_own():
    built = encoder("class", classes=NAMES).train()
    built(torch.tensor([1, 2]), 2, torch.tensor([True, False])).vector.sum().backward()
    assert built.embedding.weight.grad.abs().sum(1).nonzero().flatten().tolist() == [2, 5]


def test_an_unknown_class_suggests_the_nearest():
    with pytest.raises(
        ConfigurationError, match=r"does not know the class 'dgo'; did you mean 'dog'\? known: a:b, cat, dog"
    ):
        encoder("class", classes=NAMES).read(["cat", "dgo"], [])


@pytest.mark.parametrize("values", [[6, 0], [-1, 0], [0], [[0, 1]]])
def test_numbers_out_of_range_and_other_shapes_are_refused(values):
    with pytest.raises(ConfigurationError, match=r"labels must be 2 numbers in 0\.\.5 \(5 is null\)"):
        encoder("class", classes=NAMES)(torch.tensor(values), 2)


def test_null_shows_as_nothing():
    assert encoder("class", classes=NAMES).show(np.array([2, 5])) == (None, ["猫", ""])

"""Pictures and losses are those that are pinned in data/, made by make.py."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from alphabar.machine import processor

from .cases import DATA, DRAWN, REQUESTS, STATISTICS, TRAININGS, drawn, sampled, trained, write_shapes

PINS = json.loads((DATA / "losses.json").read_text())
TOLERANCE = 1e-6  # relative: rounding errors of float32 that other processors may add up in another order
SIGMAS = 4  # of a difference of two Monte-Carlo estimates


def assert_pinned(losses: list[float], pinned: list[float]) -> None:
    """Equal bit for bit where the pins were made, otherwise within TOLERANCE."""
    if (processor(), torch.__version__) == (PINS["processor"], PINS["torch"]):
        assert losses == pinned
    assert losses == pytest.approx(pinned, rel=TOLERANCE, abs=0)


@pytest.mark.parametrize(("run", "sampler"), [(run, sampler) for run in REQUESTS for sampler in REQUESTS[run]])
def test_fixed_seeds_give_the_pinned_pictures(run, sampler):
    with np.load(DATA / "pictures.npz") as pins:
        pinned = pins[f"{run} {sampler}"]
    pictures = sampled(run, sampler)
    assert pictures.shape == pinned.shape == (8, 8, 8, 1 if run == "digits-run" else 3)
    assert pictures.dtype == pinned.dtype == np.uint8
    assert np.abs(pictures.astype(int) - pinned).max() <= 1
    assert len({picture.tobytes() for picture in pinned}) == 8


@pytest.mark.parametrize("name", TRAININGS)
def test_short_trainings_have_the_pinned_losses(name, tmp_path):
    write_shapes(tmp_path / "shapes")
    reports = trained(tmp_path, name)
    assert [report.step for report in reports] == list(range(1, 21))
    assert_pinned([report.loss for report in reports], PINS["losses"][name])


@pytest.mark.parametrize("name", STATISTICS)
def test_what_chance_decides_has_the_pinned_mean_and_variance(name, tmp_path):
    """This holds for any other draw from the same distributions too."""
    now, pinned = drawn(tmp_path, name), PINS["statistics"][name]
    assert now.keys() == pinned.keys()
    for of in ("t", "the error"):
        variance = pinned[f"variance of {of}"]
        assert abs(now[f"mean of {of}"] - pinned[f"mean of {of}"]) < SIGMAS * math.sqrt(2 * variance / DRAWN)
        assert abs(now[f"variance of {of}"] / variance - 1) < SIGMAS * math.sqrt(2 * 2 / DRAWN)

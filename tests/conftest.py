"""Tests run in parallel, so each process and its children keep to one thread."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _short_speed_measurement(monkeypatch):
    """A session measures its speed first; for tests, two steps will do."""
    from alphabar.training import session

    monkeypatch.setattr(session, "MEASURE_SECONDS", 0.05)
    monkeypatch.setattr(session, "ESTIMATE_SECONDS", 0.01)


@pytest.fixture(autouse=True)
def _plain_float32(monkeypatch):
    """Precision and kernels that "auto" finds depend on the machine, so tests of anything else take the plain ones."""
    from alphabar.engine import speed
    from alphabar.training import session

    def plain(denoiser, shape, precision, kernels, work):
        return speed.Choice(speed.ways(precision, kernels, fused_allowed=False)[0], {})

    monkeypatch.setattr(session, "settle_way", plain)

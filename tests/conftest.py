"""Tests run in parallel, so each process and its children keep to one thread."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _short_speed_measurement(monkeypatch):
    """A session measures its speed first; for tests, a moment will do."""
    from alphabar.engine import speed

    monkeypatch.setattr(speed, "BUDGET", 0.02)


@pytest.fixture(autouse=True)
def _plain_float32(monkeypatch):
    """Precision and kernels that "auto" finds depend on the machine, so tests of anything else take the plain ones."""
    from alphabar.engine import speed
    from alphabar.training import settling

    def plain(denoiser, shape, precision, kernels, work, most):
        return speed.Choice(speed.ways(precision, kernels, fused_allowed=False)[0], {})

    monkeypatch.setattr(settling, "settle_way", plain)

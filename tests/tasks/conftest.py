"""A run that the tasks of the tests work with."""

from __future__ import annotations

from pathlib import Path

import pytest

from alphabar.training.session import prepare

TINY = {
    "network.channels": [8, 16], "network.blocks": 1, "network.attention": [False, True], "network.groups": 4, "schedule.steps": 25,
    "train.batch_size": 8, "train.preview_pictures": 2, "train.preview_steps": 2, "train.preview_every": 2, "train.validation_pictures": 8,
    "train.report_every": 2,
}  # fmt: skip


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Path:
    """A run of one step on the digits, by class."""
    out = tmp_path_factory.mktemp("tasks") / "run"
    list(prepare("digits", out, steps=1, settings=TINY).run())
    return out

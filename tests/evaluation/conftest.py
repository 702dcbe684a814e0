"""Runs of a step, to be measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alphabar.training.session import prepare

TINY = {
    "network.channels": [8, 16], "network.blocks": 1, "network.attention": [False, True], "network.groups": 4, "network.token_dim": 16,
    "schedule.steps": 25, "train.batch_size": 8, "train.preview_pictures": 2, "train.preview_steps": 2, "train.validation_pictures": 4,
    "data.held_out": 0.25, "conditions.text.width": 32, "conditions.text.layers": 1, "conditions.text.length": 16,
}  # fmt: skip


def folder_of(folder: Path, classes: list[str], n: int = 24, captions: bool = True, channels: int = 1) -> Path:
    """n random 8x8 pictures in folders of these names, with captions or without."""
    g = np.random.default_rng(0)
    for i in range(n):
        path = folder / classes[i % len(classes)] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (8, 8) if channels == 1 else (8, 8, channels)
        Image.fromarray(g.integers(0, 256, shape, dtype=np.uint8)).save(path)
        if captions:
            path.with_suffix(".txt").write_text(f"thing {i}")
    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    return folder_of(tmp_path_factory.mktemp("pictures") / "data", ["cat", "dog", "owl"])


def trained(data: object, out: Path, **settings: object) -> Path:
    """A run of one step."""
    keep = TINY if "text" in settings.get("data.conditions", []) else {k: v for k, v in TINY.items() if "text" not in k}
    list(prepare(data, out, steps=1, settings=keep | settings).run())
    return out


@pytest.fixture(scope="session")
def run(data, tmp_path_factory) -> Path:
    """A run on classes and captions."""
    settings = {"data.class_from": "folder", "data.conditions": ["class", "text"]}
    return trained(data, tmp_path_factory.mktemp("runs") / "run", **settings)

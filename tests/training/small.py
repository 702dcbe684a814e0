"""The smallest things that train."""

from __future__ import annotations

import numpy as np
import torch

from alphabar.data.pictures import PictureSet, PointSet
from alphabar.settings.config import Config, finish

NETWORK = {"channels": [8, 16], "blocks": 1, "attention": [False, True], "groups": 4}


def pictures(n: int = 40, seed: int = 0, labels: bool = True) -> PictureSet:
    """Random 8x8 pictures in two classes."""
    g = np.random.default_rng(seed)
    return PictureSet(
        g.integers(0, 256, (n, 8, 8, 1), dtype=np.uint8),
        np.arange(n) % 2 if labels else None,
        ["even", "odd"] if labels else [],
        [str(i) for i in range(n)],
    )


def config(of: PictureSet | PointSet | None = None, /, **sections: dict) -> Config:
    """A tiny configuration; sections are laid over it."""
    values: dict = {
        "preset": "tiny",
        "network": {} if sections.get("network", {}).get("kind") == "mlp" else dict(NETWORK),
        "schedule": {"steps": 50},
        "train": {"steps": 6, "batch_size": 8, "warm_up": 2, "preview_pictures": 2, "preview_steps": 2},
    }
    if isinstance(of, PictureSet) and of.classes:
        values["conditions"] = {"class": {"classes": of.classes}}
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section} if isinstance(section, dict) else section
    return finish(values, [8, 8])


def two_moons(n: int, seed: int = 0) -> PointSet:
    """Two interleaved half circles with a little noise."""
    g = torch.Generator().manual_seed(seed)
    angle = torch.rand(n, generator=g) * torch.pi
    upper = torch.arange(n) % 2 == 0
    x = torch.where(upper, angle.cos(), 1 - angle.cos()) - 0.5
    y = torch.where(upper, angle.sin(), 0.5 - angle.sin()) - 0.25
    return PointSet(torch.stack([x, y], 1) + 0.05 * torch.randn(n, 2, generator=g))

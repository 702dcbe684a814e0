"""Draw docs/figures/two_moons.png: an MLP learns two moons in seconds, and noise flows back into them.

Run: python docs/figures/two_moons.py
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from matplotlib.figure import Figure

from alphabar.data.pictures import PointSet
from alphabar.generation.pipeline import Pipeline
from alphabar.settings.config import finish
from alphabar.training.step import Trainer

STEPS, SHOWN = 1500, (0, 50, 70, 85, 100)


def two_moons(n: int) -> PointSet:
    """Two interleaved half circles with a little noise, about unit size."""
    generator = torch.Generator().manual_seed(0)
    angle = math.pi * torch.rand(n, generator=generator)
    upper = torch.arange(n) % 2 == 0
    x = torch.where(upper, angle.cos(), 1 - angle.cos()) - 0.5
    y = torch.where(upper, angle.sin(), 0.5 - angle.sin()) - 0.25
    return PointSet(torch.stack([x, y], dim=1) + 0.05 * torch.randn(n, 2, generator=generator))


def main(out: Path = Path(__file__).with_name("two_moons.png")) -> None:
    """Train, sample, draw."""
    data = two_moons(4000)
    settings = {"network": {"kind": "mlp"}, "schedule": {"kind": "cosine", "steps": 100}}
    config = finish(
        settings | {"train": {"steps": STEPS, "batch_size": 256, "learning_rate": 3e-3, "rate": "cosine"}}, [1]
    )
    trainer = Trainer(config, data)
    for _ in range(STEPS):
        trainer.step()
    pipeline = Pipeline(trainer.average, data.shape).with_settings(steps=100)
    figure = Figure(figsize=(3 * len(SHOWN), 3.4), dpi=80, layout="constrained")
    axes = figure.subplots(1, len(SHOWN))
    for state in pipeline.states(range(2000)):
        if state.step in SHOWN:
            axis = axes[SHOWN.index(state.step)]
            axis.scatter(*state.x_t.T.numpy(), s=2, alpha=0.4)
            axis.set(
                xlim=(-2.2, 2.2), ylim=(-2.2, 2.2), aspect="equal", title=f"t = {state.t:.2f}", xticks=[], yticks=[]
            )
    figure.savefig(out)


if __name__ == "__main__":
    main()

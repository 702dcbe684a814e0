"""The loss curve."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..storage import write_bytes


def save_loss_plot(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draw the training and validation loss over steps, and the loss by time, from lines of metrics.jsonl."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2)
    steps = [row["step"] for row in rows]
    left.plot(
        steps, [row["loss"] for row in rows], label="training (times and weights as set)", color="tab:blue", alpha=0.7
    )
    held = [(row["step"], row["validation_loss"]) for row in rows if row.get("validation_loss") is not None]
    if held:
        left.plot(*zip(*held, strict=True), label="held out (averaged weights, even times)", color="tab:orange")
    left.set(xlabel="step", ylabel="loss", yscale="log")
    left.legend()
    last = rows[-1]["loss_by_time"]
    edges = np.linspace(0, 1, len(last) + 1)
    heights = [value if value is not None else 0.0 for value in last]
    right.bar(edges[:-1], heights, width=np.diff(edges), align="edge", color="tab:blue", edgecolor="white")
    right.set(
        xlabel="time t (0: data, 1: noise)", ylabel="mean squared error", title=f"by time, up to step {steps[-1]}"
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_bytes(path, buffer.getvalue())

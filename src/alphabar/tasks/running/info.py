"""What is in a picture, a run or a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import DataError
from ...generation.images import read_record
from ...runs.checkpoint import is_whole, open_checkpoint
from ...runs.folder import RunFolder
from ..base import PlainPlan
from ..events import Emit, Event, TaskResult
from ..info import InfoRequest
from ..job import Stop


def plan(request: InfoRequest, emit: Emit) -> PlainPlan:
    """Nothing is done in advance."""
    return PlainPlan(request)


def run(plan: PlainPlan, stop: Stop) -> Iterator[Event]:
    """A line for each value."""
    values = describe(plan.request.path)
    yield TaskResult(
        [f"{key:<14}{v if isinstance(v, str) else json.dumps(v, ensure_ascii=False)}" for key, v in values.items()],
        values,
    )


def describe(path: Path) -> dict[str, Any]:
    """The record of a picture, or the state of a checkpoint or a run. Raises DataError."""
    if path.is_file():
        return read_record(path)
    if (path / "checkpoint.json").exists():
        return describe_checkpoint(path)
    if path.exists():
        return describe_run(path)
    raise DataError(f"{path} does not exist; give a PNG made by alphabar, a run folder, or a checkpoint folder")


def describe_checkpoint(path: Path) -> dict[str, Any]:
    """What a checkpoint holds."""
    checkpoint = open_checkpoint(path)
    return {
        "checkpoint": str(path),
        "step": checkpoint.step,
        "whole": is_whole(path),
        "model": checkpoint.hash(),
        "preset": checkpoint.config.preset,
        "shape": checkpoint.shape,
        "conditions": list(checkpoint.config.conditions),
        "classes": checkpoint.config.classes,
        "data": checkpoint.config.data.source,
        "megabytes": round(sum(entry["bytes"] for entry in checkpoint.files.values()) / 1e6, 1),
    }


def describe_run(path: Path) -> dict[str, Any]:
    """How far a run has come."""
    run = RunFolder.open(path)
    checkpoints, metrics, origin = run.checkpoints(), run.metrics(), run.read("run.json")
    values: dict[str, Any] = {
        "run": str(path),
        "created": origin.get("created", ""),
        "command": origin.get("command", ""),
        "steps": run.config.train.steps,
        "checkpoints": [p.name for p in checkpoints],
    }
    if metrics:
        newest = metrics[-1]
        values |= {"last step": newest["step"], "loss": newest["loss"], "held out": newest["validation_loss"]}
    return values | ({"newest": describe_checkpoint(checkpoints[-1])} if checkpoints else {})

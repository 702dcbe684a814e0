"""What a task reports while it runs, as plain values that any face can show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Progress:
    """`done` of `total` units of a stage such as "sampling" are finished; total is None where nobody knows it."""

    stage: str
    done: int
    total: int | None


@dataclass(frozen=True)
class Note:
    """A line for people."""

    text: str


@dataclass(frozen=True)
class Metrics:
    """A training step of `steps`. record: the newest line of metrics.jsonl, in the event of the step that wrote it."""

    step: int
    steps: int
    loss: float
    record: dict[str, Any] | None = None


@dataclass(frozen=True)
class Preview:
    """A picture that shows how far the task has come."""

    path: Path


@dataclass(frozen=True)
class TaskResult:
    """The last event of a task. lines: for people; data: the same as plain JSON values; files: what was written."""

    lines: list[str]
    data: dict[str, Any] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)


Event = Progress | Note | Metrics | Preview | TaskResult
Emit = Callable[[Event], None]

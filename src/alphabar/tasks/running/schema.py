"""The JSON schema of a request."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ...settings.config import Config
from ..base import PlainPlan
from ..events import Emit, Event, TaskResult
from ..job import Stop
from ..registry import TASKS, task_named
from ..schema import SchemaRequest


def plan(request: SchemaRequest, emit: Emit) -> PlainPlan:
    """Check that the task exists. Raises ConfigurationError."""
    if request.task is not None:
        task_named(request.task)
    return PlainPlan(request)


def run(plan: PlainPlan, stop: Stop) -> Iterator[Event]:
    """The schema as JSON, or the list of tasks."""
    name = plan.request.task
    if name is None:
        tasks = {name: task.summary for name, task in TASKS.items()}
        yield TaskResult([f"{name:<12}{summary}" for name, summary in tasks.items()], {"tasks": tasks})
        return
    schema = schema_of(name)
    yield TaskResult([json.dumps(schema, indent=2, ensure_ascii=False)], schema)


def schema_of(name: str) -> dict[str, Any]:
    """The schema of a task's request; of a training also `settings`, the schema of the whole configuration.

    Each property has beside its type the keys `panel`, `flags` and `metavar` of its option.
    """
    task = TASKS[name]
    request = task.request_class()
    schema = request.model_json_schema() | {
        "title": name,
        "description": task.summary,
        "examples": list(request.examples),
    }
    return schema | ({"settings": Config.model_json_schema()} if name == "train" else {})

"""The presets and all settings with their defaults and meanings."""

from __future__ import annotations

import json
from collections.abc import Iterator

from pydantic_core import PydanticUndefined

from ...settings.config import PRESETS, all_fields
from ..base import PlainPlan
from ..events import Emit, Event, TaskResult
from ..job import Stop
from ..settings import SettingsRequest


def plan(request: SettingsRequest, emit: Emit) -> PlainPlan:
    """Nothing is done in advance."""
    return PlainPlan(request)


def run(plan: PlainPlan, stop: Stop) -> Iterator[Event]:
    """Two lines for each setting whose key starts with the prefix."""
    prefix = plan.request.prefix
    lines = [] if prefix else ["presets (--preset): auto, " + ", ".join(PRESETS) + "\n"]
    data = {}
    for key, field in all_fields():
        if key.startswith(prefix) and field.description:
            default = field.get_default(call_default_factory=True)
            known = default is not PydanticUndefined
            lines.append(f"{key}{f' = {json.dumps(default)}' if known else ''}\n    {field.description}")
            data[key] = {"default": default if known else None, "description": field.description}
    yield TaskResult(lines, {"settings": data})

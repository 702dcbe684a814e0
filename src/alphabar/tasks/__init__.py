"""What a person can ask for: requests, plans, and jobs whose events any face can show.

    from alphabar import tasks

    job = tasks.start(tasks.SampleRequest(run="runs/mine", out="x.png", n=4))
    for event in job:
        print(event)
    print(job.result.files)

`tasks.run(request)` goes to the end at once. `TASKS` has all tasks by name. A request says the command that equals it (`request.command()`),
and is written and read as JSON (`model_dump_json`, `model_validate_json`). Names are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .registry import TASKS

if TYPE_CHECKING:
    from .base import Plan as Plan
    from .base import Request as Request
    from .demo import DemoRequest as DemoRequest
    from .doctor import DoctorRequest as DoctorRequest
    from .edit import EditRequest as EditRequest
    from .evaluate import EvaluateRequest as EvaluateRequest
    from .events import Event as Event
    from .events import Metrics as Metrics
    from .events import Note as Note
    from .events import Preview as Preview
    from .events import Progress as Progress
    from .events import TaskResult as TaskResult
    from .explain import ExplainRequest as ExplainRequest
    from .export import ExportRequest as ExportRequest
    from .extractor import ExtractorRequest as ExtractorRequest
    from .import_model import ImportRequest as ImportRequest
    from .info import InfoRequest as InfoRequest
    from .job import Job as Job
    from .job import run as run
    from .job import start as start
    from .likelihood import LikelihoodRequest as LikelihoodRequest
    from .sample import SampleRequest as SampleRequest
    from .schema import SchemaRequest as SchemaRequest
    from .settings import SettingsRequest as SettingsRequest
    from .train import TrainRequest as TrainRequest

_HOMES = {task.request: task.module for task in TASKS.values()} | {
    "Plan": "base", "Request": "base", "Job": "job", "run": "job", "start": "job",
    "Event": "events", "Metrics": "events", "Note": "events", "Preview": "events", "Progress": "events", "TaskResult": "events",
}  # fmt: skip
__all__ = ["TASKS", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""The tasks by name. Each one's modules are imported when they are first used, so that a list of tasks costs nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from ..errors import unknown
from .events import Emit, Event

if TYPE_CHECKING:
    from .base import Plan, Request
    from .job import Stop

MAKE, MEASURE, EXCHANGE, EXPLAIN = "Train and make pictures", "Measure", "Other programs", "Look up"


@dataclass(frozen=True)
class Task:
    """Where a task is: `module` in this room holds the class `request`, `running.MODULE` its functions `plan` and `run`.

    panel: the group in which faces show it. saves: whether what is done so far is kept when the task is stopped.
    """

    module: str
    request: str
    panel: str
    summary: str
    saves: bool = False

    def request_class(self) -> type[Request]:
        """The class of its requests."""
        return cast("type[Request]", getattr(import_module(f".{self.module}", __package__), self.request))

    def plan(self, request: Request, emit: Emit) -> Plan:
        """The request checked into a plan; what happens meanwhile is emitted. Raises AlphabarError."""
        return cast("Plan", self._runner().plan(request, emit))

    def run(self, plan: Plan, stop: Stop) -> Iterator[Event]:
        """The events of a plan, the result last."""
        return cast("Iterator[Event]", self._runner().run(plan, stop))

    def _runner(self) -> Any:
        return import_module(f".running.{self.module}", __package__)


TASKS = {
    "train": Task("train", "TrainRequest", MAKE, "Train on your own pictures.", saves=True),
    "sample": Task("sample", "SampleRequest", MAKE, "Make new pictures with a trained model."),
    "edit": Task(
        "edit", "EditRequest", MAKE, "Edit pictures with a trained model: fill in, start from one, vary one, go between two."
    ),
    "demo": Task(
        "demo", "DemoRequest", MAKE,
        "Train a class-conditional model on the embedded handwritten digits and make new ones, in under three minutes on two cores.",
        saves=True,
    ),
    "evaluate": Task(
        "evaluate", "EvaluateRequest", MEASURE,
        "Measure the quality of a run's samples, or of pictures, against real ones: distances with their floor, class accuracy, copies.",
    ),
    "extractor": Task(
        "extractor", "ExtractorRequest", MEASURE,
        "Train a small classifier on data with classes, as the extractor of `alphabar evaluate`.",
    ),
    "likelihood": Task(
        "likelihood", "LikelihoodRequest", MEASURE,
        "Measure how likely real pictures are under a model, in bits per dimension: by the variational bound and by the "
        "probability-flow ODE.",
    ),
    "export": Task(
        "export", "ExportRequest", EXCHANGE,
        "Write a model for other programs: diffusers or ONNX. What they cannot hold is refused with the reason.",
    ),
    "import": Task(
        "import_model", "ImportRequest", EXCHANGE,
        "Make a run of a model that was trained with diffusers, to sample from, train on or evaluate as any other.",
    ),
    "schema": Task("schema", "SchemaRequest", EXCHANGE, "Print the JSON schema of a task's request, or list the tasks."),
    "explain": Task(
        "explain", "ExplainRequest", EXPLAIN,
        "Explain a part of the derivation: its formulas, and their numbers for a schedule.",
    ),
    "info": Task("info", "InfoRequest", EXPLAIN, "Say how a picture was made, or what is in a run or a checkpoint."),
    "settings": Task(
        "settings", "SettingsRequest", EXPLAIN,
        "List the presets, and every setting for --set and --config with its default and meaning.",
    ),
    "doctor": Task(
        "doctor", "DoctorRequest", EXPLAIN,
        "Print versions, devices, threads, precisions and what is missing, to paste into a bug report.",
    ),
}  # fmt: skip


def task_named(name: str) -> Task:
    """The task of this name. Raises ConfigurationError, naming the nearest one, if there is none."""
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    return TASKS[name]

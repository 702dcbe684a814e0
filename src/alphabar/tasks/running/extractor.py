"""How an extractor is planned and trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...conditions.kinds import load_with_conditions
from ...data.pictures import PictureSet
from ...errors import ConfigurationError
from ...evaluation.classifier import save_classifier, train_classifier
from ...settings.base import validate
from ...settings.data import DataSettings
from ..base import PlainPlan
from ..events import Emit, Event, Progress, TaskResult
from ..extractor import ExtractorRequest
from ..job import Stop, follow


@dataclass(frozen=True)
class ExtractorPlan(PlainPlan):
    """The pictures to train on, and how many of them are used."""

    request: ExtractorRequest
    pictures: PictureSet
    count: int


def plan(request: ExtractorRequest, emit: Emit) -> ExtractorPlan:
    """Read the pictures. Raises ConfigurationError, DataError."""
    if request.out.suffix.lower() != ".safetensors" or request.out.is_dir():
        raise ConfigurationError(f"--out takes the path of a .safetensors file to write, got {request.out}")
    class_from = request.class_from
    if class_from == "auto" and Path(request.data).expanduser().is_dir():
        class_from = "folder"
    values = {"source": request.data, "held_out": 0.0, "class_from": class_from, "size": request.size}
    settings = validate(DataSettings, values)
    pictures = load_with_conditions(settings, None, lambda stage, done, total: emit(Progress(stage, done, total))).train
    return ExtractorPlan(request, pictures, request.pictures or max(2, len(pictures) // 3))


def run(plan: ExtractorPlan, stop: Stop) -> Iterator[Event]:
    """Train and save. A stop leaves nothing behind."""
    request = plan.request
    classifier = yield from follow(
        lambda emit: train_classifier(
            plan.pictures, request.data, plan.count, request.seed,
            lambda done, total: emit(Progress("training", done, total)),
        ),
        stop,
    )  # fmt: skip
    save_classifier(classifier, request.out)
    origin = classifier.origin
    judged = "" if origin.accuracy is None else f", right on {origin.accuracy:.1%} of {origin.judged_on} others"
    line = (
        f"{request.out}: {len(origin.classes)} classes, trained on {origin.pictures} pictures of {request.data}{judged}; "
        f"hash {classifier.hash}"
    )
    data = {
        "classes": len(origin.classes),
        "pictures": origin.pictures,
        "accuracy": origin.accuracy,
        "hash": classifier.hash,
    }
    yield TaskResult([line], data, [request.out])

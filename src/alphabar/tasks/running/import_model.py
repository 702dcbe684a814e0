"""How an import is planned and written."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from ...interop.diffusers_import import Import, read_import, write_import
from ...interop.files import check_new_folder
from ...settings.base import validate
from ...settings.data import DataSettings
from ..base import PlainPlan
from ..events import Emit, Event, TaskResult
from ..import_model import ImportRequest
from ..job import Stop


@dataclass(frozen=True)
class ImportPlan(PlainPlan):
    """A model that was read and can be written as a run."""

    request: ImportRequest
    model: Import


def plan(request: ImportRequest, emit: Emit) -> ImportPlan:
    """Read the model. Raises AlphabarError where it cannot be held."""
    check_new_folder(request.out)
    return ImportPlan(request, read_import(request.folder, parse_size(request.size)))


def run(plan: ImportPlan, stop: Stop) -> Iterator[Event]:
    """Write the run."""
    out, model = plan.request.out, plan.model
    write_import(model, out, plan.request.command_line())
    notes = [f"note: {note}" for note in model.notes]
    following = f"next: alphabar sample {shlex.quote(str(out))} -n 16 --out samples.png"
    yield TaskResult([f"{out}: {describe_import(model)}", *notes, following], {"notes": list(model.notes)}, [out])


def parse_size(text: str | None) -> list[int] | None:
    """'32' or '32x48' -> [height, width]. Raises ConfigurationError."""
    return None if text is None else validate(DataSettings, {"size": text}).size


def describe_import(model: Import) -> str:
    """A model in one line."""
    config, (channels, height, width) = model.config, model.shape
    numbers = sum(tensor.numel() for name, tensor in model.tensors.items() if name.startswith("network."))
    kind = f"{len(config.classes)} classes" if config.classes else "unconditional"
    return (
        f"{numbers / 1e6:.1f} M parameters, {height}x{width}, {channels} channels, {kind}; "
        f"{config.schedule.kind} schedule of {config.schedule.steps} steps, predicts {config.diffusion.prediction}"
    )

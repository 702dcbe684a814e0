"""How an export is planned and written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ...generation.output import Samples
from ...interop.diffusers_export import Export, write_export
from ...interop.files import check_new_folder
from ...interop.onnx_export import export_onnx
from ..base import PlainPlan
from ..events import Emit, Event, TaskResult
from ..export import ExportRequest
from ..job import Stop, follow
from .frames import step_counter


@dataclass(frozen=True)
class ExportPlan(PlainPlan):
    """A model that diffusers can hold; None for ONNX, which is checked while it is written."""

    request: ExportRequest
    model: Export | None


def plan(request: ExportRequest, emit: Emit) -> ExportPlan:
    """Open the model, and check that diffusers can hold it. Raises AlphabarError."""
    if request.to == "onnx":
        return ExportPlan(request, None)
    check_new_folder(request.out)
    return ExportPlan(request, Export.open(request.run, request.checkpoint, request.raw_weights))


def run(plan: ExportPlan, stop: Stop) -> Iterator[Event]:
    """Write the model. A stop leaves nothing behind."""
    request, model = plan.request, plan.model
    if model is None:
        export_onnx(request.run, request.out, request.checkpoint, request.raw_weights, request.license)
        line = (
            f"{request.out}: the network with what a sampler needs in its metadata; examples/onnx_sampling.py uses it"
        )
        yield TaskResult([line], files=[request.out])
        return

    def make_grid(emit: Emit) -> Samples:
        return model.sample_grid(step_counter(emit, 1, model.grid_steps))

    grid = None if request.no_grid else (yield from follow(make_grid, stop))
    notes = write_export(model, request.out, request.license, grid)
    line = f"{request.out}: a diffusers pipeline; its README.md says how it is used"
    yield TaskResult([line, *(f"note: {note}" for note in notes)], {"notes": list(notes)}, [request.out])

"""`alphabar export` and `alphabar import`: models of other programs."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ConfigurationError, unknown
from .options import Checkpoint, RawWeights, Run, command_line

if TYPE_CHECKING:
    from ..generation.output import Samples
    from ..interop.diffusers_export import Export
    from ..interop.diffusers_import import Import

FORMATS = ("diffusers", "onnx")


def export(
    run: Run,
    out: Annotated[
        Path, typer.Argument(help="diffusers: the new folder to write; onnx: the file to write, NAME.onnx.")
    ],
    to: Annotated[
        str, typer.Option("--to", help="diffusers: a pipeline folder with a model card; onnx: the network as one file.")
    ],
    checkpoint: Checkpoint = None,
    raw_weights: RawWeights = False,
    license_: Annotated[
        str, typer.Option("--license", help="The licence that you give the model, for its card, like mit.")
    ] = "unknown",
    no_grid: Annotated[
        bool, typer.Option("--no-grid", help="diffusers: do not make the sixteen pictures of the model card.")
    ] = False,
) -> None:
    """Write a model for other programs: diffusers or ONNX. What they cannot hold is refused with the reason."""
    from .watch import console

    if to not in FORMATS:
        raise unknown("--to", to, FORMATS)
    if to == "onnx":
        from ..interop.onnx_export import export_onnx

        if no_grid:
            raise ConfigurationError("--no-grid is for --to diffusers; an ONNX file has no model card")
        export_onnx(run, out, checkpoint, raw_weights, license_)
        console.print(
            f"{out}: the network with what a sampler needs in its metadata; examples/onnx_sampling.py uses it",
            markup=False,
        )
        return
    from ..interop.diffusers_export import Export, write_export
    from ..interop.files import check_new_folder

    check_new_folder(out)
    model = Export.open(run, checkpoint, raw_weights)
    notes = write_export(model, out, license_, None if no_grid else _grid(model))
    console.print(f"{out}: a diffusers pipeline; its README.md says how it is used", markup=False)
    _print_notes(notes)


def _grid(model: Export) -> Samples:
    from .watch import sampling_bar

    with sampling_bar(1, model.grid_steps) as update:
        return model.sample_grid(update)


def import_(
    folder: Annotated[Path, typer.Argument(help="A pipeline folder of diffusers with a UNet2DModel.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The run folder to make.")],
    size: Annotated[
        str | None,
        typer.Option(metavar="HEIGHTxWIDTH", help="The size of its pictures, where the folder does not say it."),
    ] = None,
) -> None:
    """Make a run of a model that was trained with diffusers, to sample from, train on or evaluate as any other."""
    from ..interop.diffusers_import import read_import, write_import
    from ..interop.files import check_new_folder
    from .watch import console

    check_new_folder(out)
    found = read_import(folder, parse_size(size))
    write_import(found, out, command_line())
    console.print(f"{out}: {describe_import(found)}", markup=False)
    _print_notes(found.notes)
    console.print(f"next: alphabar sample {shlex.quote(str(out))} -n 16 --out samples.png", markup=False)


def parse_size(text: str | None) -> list[int] | None:
    """'32' or '32x48' -> [height, width]. Raises ConfigurationError."""
    from ..settings.base import validate
    from ..settings.data import DataSettings

    return None if text is None else validate(DataSettings, {"size": text}).size


def describe_import(found: Import) -> str:
    """A model in one line."""
    config, (channels, height, width) = found.config, found.shape
    numbers = sum(tensor.numel() for name, tensor in found.tensors.items() if name.startswith("network."))
    kind = f"{len(config.classes)} classes" if config.classes else "unconditional"
    return (
        f"{numbers / 1e6:.1f} M parameters, {height}x{width}, {channels} channels, {kind}; "
        f"{config.schedule.kind} schedule of {config.schedule.steps} steps, predicts {config.diffusion.prediction}"
    )


def _print_notes(notes: Any) -> None:
    from .watch import console

    for note in notes:
        console.print(f"note: {note}", markup=False)

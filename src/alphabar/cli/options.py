"""What several commands share: options, as types of their parameters, and the command line that a run records."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

Run = Annotated[Path, typer.Argument(help="A run folder, or a checkpoint folder in it.")]
Checkpoint = Annotated[str | None, typer.Option(help="A step, step-N, or a checkpoint folder. Default: the newest.")]
RawWeights = Annotated[
    bool, typer.Option("--raw-weights", help="Use the weights of training instead of their average.")
]
Batch = Annotated[int | None, typer.Option(min=1, help="Pictures at a time. Default: as many as fit.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, mps, or auto.")]
Split = Annotated[
    str | None,
    typer.Option(
        help="held-out (from training), training, or all. Default: held-out of the run's own data, all of any other."
    ),
]


def command_line() -> str:
    """The command that is running, as a run records it."""
    return " ".join(sys.argv)

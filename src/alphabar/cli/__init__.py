"""The command line: a face on the tasks. Only typer is imported here; each command imports what it needs when it is used."""

from __future__ import annotations

import io
import sys

import typer

from ..errors import AlphabarError
from .build import HELP_OPTIONS, TaskGroup

SUMMARY = "Denoising diffusion from formula to picture: train on your own pictures, make new ones."

app = typer.Typer(
    name="alphabar",
    cls=TaskGroup,
    help=SUMMARY,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": HELP_OPTIONS},
)


NO_COMMAND = 2
"""The exit code without a command, as for a command line that cannot be used."""


@app.callback(invoke_without_command=True, help=SUMMARY)
def root(
    context: typer.Context, version: bool = typer.Option(False, "--version", help="Print the version and exit.")
) -> None:
    """What `alphabar` does without a command: print the version or the help."""
    if version:
        from .. import __version__

        print(f"alphabar {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(NO_COMMAND)


def main() -> None:
    """Run the command line; an error that alphabar foresaw is printed in a line or two and exits with its code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a console without, say, Greek letters shows ? for them
    try:
        app()
    except AlphabarError as error:
        print(f"alphabar: {error}", file=sys.stderr)
        sys.exit(error.exit_code)

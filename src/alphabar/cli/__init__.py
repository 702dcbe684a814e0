"""The command line. Only typer is imported here; torch and the rest are imported inside the commands that need them."""

from __future__ import annotations

import io
import sys

import typer

from ..errors import AlphabarError
from . import demo, describe, edit, evaluate, explain, interop, likelihood, sample, train

app = typer.Typer(
    name="alphabar",
    help="Denoising diffusion from formula to picture: train on your own pictures, make new ones.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(train.train)
app.command()(sample.sample)
app.command()(edit.edit)
app.command()(demo.demo)
app.command()(interop.export)
app.command("import")(interop.import_)
app.command()(evaluate.evaluate)
app.command()(evaluate.extractor)
app.command()(likelihood.likelihood)
app.command()(explain.explain)
app.command()(describe.info)
app.command()(describe.settings)
app.command()(describe.doctor)


@app.callback(invoke_without_command=True)
def root(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    """Denoising diffusion from formula to picture: train on your own pictures, make new ones."""
    if version:
        from .. import __version__

        print(f"alphabar {__version__}")
        raise typer.Exit


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

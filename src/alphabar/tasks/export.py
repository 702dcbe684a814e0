"""The request of `alphabar export`."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import model_validator

from ..errors import ConfigurationError
from .base import Request
from .fields import argument, checkpoint_option, option, plugin_option, raw_weights_option, run_argument


class ExportRequest(Request):
    """A model, written for another program."""

    name: ClassVar[str] = "export"
    examples: ClassVar[tuple[str, str, str]] = (
        "alphabar export runs/mine my-pipeline --to diffusers --license mit",
        "alphabar export runs/mine mine.onnx --to onnx",
        "alphabar export runs/mine early --to diffusers --checkpoint 1000 --no-grid",
    )

    run: Path = run_argument()
    out: Path = argument("diffusers: the new folder to write; onnx: the file to write, NAME.onnx.", metavar="OUT")
    to: Literal["diffusers", "onnx"] = option(
        "diffusers: a pipeline folder with a model card; onnx: the network as one file.", ..., metavar="FORMAT"
    )
    license: str = option("The licence that you give the model, for its card, like mit.", "unknown", metavar="NAME")
    no_grid: bool = option("diffusers: do not make the sixteen pictures of the model card.", False)
    checkpoint: str | None = checkpoint_option()
    raw_weights: bool = raw_weights_option()
    plugin: tuple[str, ...] = plugin_option()

    @model_validator(mode="after")
    def _check(self) -> ExportRequest:
        if self.to == "onnx" and self.no_grid:
            raise ConfigurationError("--no-grid is for --to diffusers; an ONNX file has no model card")
        return self

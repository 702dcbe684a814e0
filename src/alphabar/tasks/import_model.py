"""The request of `alphabar import`."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from .base import Request, Words
from .fields import argument, option


class ImportRequest(Request):
    """A run, made of a model that was trained with diffusers."""

    name: ClassVar[str] = "import"
    examples: ClassVar[tuple[str, str, str]] = (
        "alphabar import ddpm-cat-256 --out runs/cats",
        "alphabar import my-pipeline --size 32 --out runs/mine",
        "alphabar import my-pipeline --size 32x48 --out runs/wide",
    )

    folder: Path = argument("A pipeline folder of diffusers with a UNet2DModel.", metavar="FOLDER")
    out: Path = option("The run folder to make.", ..., flags="--out -o", metavar="RUN")
    size: Words | None = option("The size of its pictures, where the folder does not say it.", metavar="HEIGHTxWIDTH")

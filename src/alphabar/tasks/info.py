"""The request of `alphabar info`."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from .base import Request
from .fields import argument, plugin_option


class InfoRequest(Request):
    """How a picture was made, or what is in a run or a checkpoint."""

    name: ClassVar[str] = "info"
    examples: ClassVar[tuple[str, str, str]] = (
        "alphabar info samples.png",
        "alphabar info runs/mine",
        "alphabar info runs/mine/checkpoints/step-1000",
    )

    path: Path = argument("A PNG made by alphabar, a run folder, or a checkpoint folder.", metavar="WHAT")
    plugin: tuple[str, ...] = plugin_option()

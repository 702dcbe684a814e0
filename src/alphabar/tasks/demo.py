"""The request of `alphabar demo`."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from .base import Request
from .fields import option


class DemoRequest(Request):
    """From nothing to new digits in a few minutes on a CPU."""

    name: ClassVar[str] = "demo"
    examples: ClassVar[tuple[str, str, str]] = (
        "alphabar demo",
        "alphabar demo --out runs/digits",
        "alphabar demo --steps 300",
    )

    out: Path | None = option(
        "The run folder to make. Default: runs/demo, or runs/demo-2, ...", flags="--out -o", metavar="RUN"
    )
    steps: int | None = option("Optimizer steps. Default: 1500, or as many as fit into 2 minutes.", ge=1)

"""The request of `alphabar explain`."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from .base import Request
from .fields import argument, option


class ExplainRequest(Request):
    """A part of the derivation, with the numbers of a schedule."""

    name: ClassVar[str] = "explain"
    examples: ClassVar[tuple[str, str, str]] = (
        "alphabar explain",
        "alphabar explain posterior --t 500",
        "alphabar explain forward --schedule cosine --steps 100 --lang zh",
    )

    topic: str | None = argument(
        "forward, closed-form, posterior, training, ...; without it: the list.", None, metavar="TOPIC"
    )
    t: int | None = option("The step whose numbers are shown, 1 to T. Default: the middle one.", flags="--t")
    schedule: str | None = option("linear, scaled_linear, cosine or sigmoid. Default: linear.", metavar="NAME")
    steps: int | None = option("T, the number of steps. Default: 1000.")
    run: Path | None = option("A run folder: its schedule is taken.", metavar="RUN")
    lang: str | None = option("en or zh. Default: as the locale says.", metavar="LANGUAGE")

"""The request of `alphabar schema`."""

from __future__ import annotations

from typing import ClassVar

from .base import Request
from .fields import argument


class SchemaRequest(Request):
    """The JSON schema of another task's request."""

    name: ClassVar[str] = "schema"
    examples: ClassVar[tuple[str, str, str]] = (
        "alphabar schema",
        "alphabar schema sample",
        "alphabar schema train > train.schema.json",
    )

    task: str | None = argument("A task, such as sample; without it: the list.", None, metavar="TASK")

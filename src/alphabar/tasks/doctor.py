"""The request of `alphabar doctor`."""

from __future__ import annotations

from typing import ClassVar

from .base import Request


class DoctorRequest(Request):
    """What this machine and this installation can do."""

    name: ClassVar[str] = "doctor"
    examples: ClassVar[tuple[str, str, str]] = (
        "alphabar doctor",
        "alphabar doctor > report.txt",
        "alphabar doctor | grep bfloat16",
    )

"""The request of `alphabar settings`."""

from __future__ import annotations

from typing import ClassVar

from .base import Request
from .fields import argument


class SettingsRequest(Request):
    """The presets and all settings."""

    name: ClassVar[str] = "settings"
    examples: ClassVar[tuple[str, str, str]] = (
        "alphabar settings",
        "alphabar settings train.",
        "alphabar settings conditions.text",
    )

    prefix: str = argument("Only settings whose key starts so, for example train.", "", metavar="KEY")

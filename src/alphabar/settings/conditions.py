"""What the settings of all kinds of conditions share. Imports no torch; each kind's own settings stand in its file."""

from __future__ import annotations

from pydantic import Field

from .base import Settings


class KindSettings(Settings):
    """Settings of one condition."""

    kind: str | None = Field(None, description="class, text, map or image; default: the condition's name")
    dropout: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="probability that training hides the condition, so that the model also learns to do without",
    )

"""Settings of the conditions. Imports no torch."""

from __future__ import annotations

from pydantic import Field

from ..settings import Settings


class LabelSettings(Settings):
    """A class of each picture."""

    classes: list[str] = Field(description="the class names, in the order of their numbers")
    dropout: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="probability that training hides the class, so that the model also learns to do without",
    )


class ConditionSettings(Settings):
    """What the model is conditioned on; filled in from the data."""

    label: LabelSettings | None = Field(None, description="the class of each picture; none: not conditioned on it")

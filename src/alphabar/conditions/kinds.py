"""The kinds of conditions by name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ..errors import ConfigurationError, nearest
from ..settings.base import validate
from ..settings.conditions import KindSettings
from .base import Doors, Encoder, Encoders, Sizes
from .image import ImageEncoder
from .label import LabelEncoder
from .semantic_map import MapEncoder
from .text import TextEncoder

KINDS: dict[str, type[Encoder]] = {
    "class": LabelEncoder,
    "text": TextEncoder,
    "map": MapEncoder,
    "image": ImageEncoder,
}

NAME = re.compile(r"[a-zA-Z]\w*")

Conditions = Mapping[str, Mapping[str, Any]]
"""The settings of a model's conditions by name, as they stand in a configuration."""


def kind_of(name: str, settings: Mapping[str, Any]) -> type[Encoder]:
    """The kind of a condition: what its settings say, otherwise its name. Raises ConfigurationError if there is none such."""
    if not NAME.fullmatch(name) or hasattr(nn.ModuleDict(), name):
        raise ConfigurationError(f"a condition cannot be called {name!r}; use letters, digits and _, like depth or age")
    kind = str(settings.get("kind") or name)
    if kind not in KINDS:
        raise ConfigurationError(
            f"condition {name!r} has the unknown kind {kind!r}; {nearest(kind, KINDS)}; a name of your own needs conditions.{name}.kind"
        )
    return KINDS[kind]


def read_settings(name: str, settings: Mapping[str, Any]) -> KindSettings:
    """The checked settings of a condition. Raises ConfigurationError."""
    try:
        return validate(kind_of(name, settings).Settings, settings)
    except ConfigurationError as error:
        raise ConfigurationError(f"conditions.{name}: {error}") from None


def all_doors(conditions: Conditions, shape: Sequence[int]) -> Doors:
    """The doors that these conditions need together."""
    found = (kind_of(name, values).doors(read_settings(name, values), shape) for name, values in conditions.items())
    return sum(found, start=Doors())


def build_encoders(conditions: Conditions, sizes: Sizes) -> Encoders:
    """The encoders of these conditions with fresh weights."""
    return Encoders(
        {
            name: kind_of(name, values)(read_settings(name, values), sizes)  # type: ignore[call-arg]
            for name, values in conditions.items()
        }
    )

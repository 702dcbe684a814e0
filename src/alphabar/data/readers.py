"""What data is told about conditions: how each kind finds and reads its values in files, metadata and arrays.

The readers of the kinds themselves stand in the room `conditions`; data takes them as arguments.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from torch import nn

from ..errors import ConfigurationError, MissingRegistration, nearest
from ..settings.conditions import ConditionSettings, read_condition
from .sources import Catalogue, PictureFile

NAME = re.compile(r"[a-zA-Z]\w*")
CLASS_NEEDS = "labels, sub-folders, or a column given by --class-from"
Conditions = Mapping[str, Mapping[str, Any]]
"""The settings of conditions by name as plain values, as a user gives them."""


@dataclass(frozen=True)
class Offer:
    """What data offers for a condition: where it comes from, in words, and how to read the value of one picture.

    `read(file, (height, width))` raises DataError where this picture has none: it is then left out and named in the report.
    """

    origin: str
    read: Callable[[PictureFile, tuple[int, int]], Any]
    settings: Any
    """The condition's settings with what was learned on the way filled in."""
    present: Callable[[PictureFile], bool] = lambda file: True
    """Whether there seems to be a value for a picture, without reading it."""


class Reader:
    """How a kind of condition is read from data. A kind of one's own overrides what differs; `offer` is the least that it needs.

    settings: the kind's settings model. needs: what data must have for it, for the error when there is nothing. mirrors: whether a
    mirrored picture keeps its value (mirrored with it, if it is a picture). pictorial: whether values are pictures or maps (n, H, W, C),
    which are mirrored with the picture.
    """

    settings: ClassVar[type[ConditionSettings]] = ConditionSettings
    needs: ClassVar[str] = "a column of the metadata"
    mirrors: ClassVar[bool] = True
    pictorial: ClassVar[bool] = False

    def resolve(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The values of the settings with files that they name read. Raises ConfigurationError for one that cannot be read."""
        return values

    def derives(self, settings: Any) -> bool:
        """Whether values are made from the picture itself while training (`Encoder.derive`) instead of being read from data."""
        return False

    def folders(self, name: str, settings: Any) -> Collection[str]:
        """Folders of the data that hold values of this condition and no pictures to train on."""
        return ()

    def mirrored_indices(self, settings: Any) -> np.ndarray | None:
        """What each index (256,) of a map becomes in a mirrored picture, None if it stays."""
        return None

    def offer(self, name: str, settings: Any, catalogue: Catalogue) -> Offer | None:
        """What the data has for a condition of this name and these settings, or None."""
        return None

    def settle(self, settings: Any, values: np.ndarray) -> Any:
        """The settings with what only the data's values (N, ...) tell filled in."""
        return settings


@dataclass(frozen=True)
class Readers:
    """The readers of all registered kinds of conditions, by kind."""

    by_kind: Mapping[str, Reader] = field(default_factory=dict)

    def __iter__(self) -> Any:
        return iter(self.by_kind)

    def items(self) -> Any:
        """(kind, reader) of each."""
        return self.by_kind.items()

    def of(self, name: str, values: Mapping[str, Any]) -> Reader:
        """The reader of a condition: of the kind that its settings name, otherwise of its own name. Raises ConfigurationError."""
        kind = kind_name(name, values)
        if kind not in self.by_kind:
            raise unknown_kind(name, kind, self.by_kind)
        return self.by_kind[kind]

    def read(self, name: str, values: Mapping[str, Any]) -> Any:
        """The checked settings of a condition, with the files that they name read. Raises ConfigurationError."""
        reader = self.of(name, values)
        try:
            resolved = reader.resolve(values)
        except ConfigurationError as error:
            raise ConfigurationError(f"conditions.{name}: {error}") from None
        return read_condition(name, resolved)


def kind_name(name: str, values: Mapping[str, Any]) -> str:
    """The kind of a condition: what its settings say, otherwise its name. Raises ConfigurationError for a name that cannot be one."""
    if not NAME.fullmatch(name) or hasattr(nn.ModuleDict(), name):
        raise ConfigurationError(f"a condition cannot be called {name!r}; use letters, digits and _, like depth or age")
    return str(values.get("kind") or name)


def unknown_kind(name: str, kind: str, known: Collection[str]) -> MissingRegistration:
    """The error for a condition of a kind that is not registered."""
    return MissingRegistration(
        f"condition {name!r} has the unknown kind {kind!r}; {nearest(kind, known)}; a name of your own needs conditions.{name}.kind, "
        "a kind of your own a registration (--plugin FILE.py)"
    )

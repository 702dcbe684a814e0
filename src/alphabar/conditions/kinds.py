"""The kinds of conditions by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.found import LoadedData
from ..data.load import Progress, load_data
from ..data.readers import Conditions, Reader, Readers, kind_name, unknown_kind
from ..networks.cond import Doors
from ..settings.conditions import CONDITION_SETTINGS, ConditionSettings, read_condition
from ..settings.data import DataSettings
from ..settings.kinds import check_registration
from .base import Encoder, Encoders, Sizes
from .image import ImageEncoder, ImageReader
from .label import ClassReader, LabelEncoder
from .semantic_map import MapEncoder, MapReader
from .text import TextEncoder, TextReader


@dataclass(frozen=True)
class Kind:
    """A kind of condition: how data is read for it, and how its values are encoded."""

    reader: Reader
    encoder: type[Encoder]


KINDS: dict[str, Kind] = {
    "class": Kind(ClassReader(), LabelEncoder),
    "text": Kind(TextReader(), TextEncoder),
    "map": Kind(MapReader(), MapEncoder),
    "image": Kind(ImageReader(), ImageEncoder),
}
BUILTIN = frozenset(KINDS)
"""The kinds that a registration cannot replace."""


def register(kind: str, reader: Reader, encoder: type[Encoder]) -> None:
    """Make a kind of condition of one's own known: it can be trained, saved, loaded and asked for like any other.

    Only this process knows it then; a run that uses it says so where it is not registered. Raises ConfigurationError if the kind is
    built in, or belongs to an encoder of another name.
    """
    present = KINDS[kind].encoder if kind in KINDS else None
    check_registration("condition", kind, BUILTIN, present, encoder)
    KINDS[kind] = Kind(reader, encoder)
    CONDITION_SETTINGS[kind] = reader.settings


def readers() -> Readers:
    """The readers of all kinds that are registered now."""
    return Readers({name: kind.reader for name, kind in KINDS.items()})


def kind_of(name: str, values: Mapping[str, Any] | ConditionSettings) -> Kind:
    """The kind of a condition: what its settings say, otherwise its name. Raises ConfigurationError if there is none such."""
    kind = kind_name(name, {"kind": values.kind} if isinstance(values, ConditionSettings) else values)
    if kind not in KINDS:
        raise unknown_kind(name, kind, KINDS)
    return KINDS[kind]


def read_settings(name: str, values: Mapping[str, Any]) -> ConditionSettings:
    """The checked settings of a condition, with the files that they name read. Raises ConfigurationError."""
    settings: ConditionSettings = readers().read(name, values)
    return settings


def load_with_conditions(
    settings: DataSettings,
    cache: Path | None = None,
    progress: Progress | None = None,
    conditions: Conditions | None = None,
) -> LoadedData:
    """`data.load.load_data` with the readers of all kinds that are registered."""
    return load_data(settings, cache, progress, conditions, readers())


def all_doors(conditions: Mapping[str, Any], shape: Sequence[int]) -> Doors:
    """The doors that these conditions, settings or plain values by name, need together."""
    needed = (
        kind_of(name, values).encoder.doors(read_condition(name, values), shape) for name, values in conditions.items()
    )
    return sum(needed, start=Doors())


def build_encoders(conditions: Mapping[str, Any], sizes: Sizes) -> Encoders:
    """The encoders of these conditions, settings or plain values by name, with fresh weights."""
    made: dict[str, Encoder] = {}
    for name, values in conditions.items():
        encoder: Any = kind_of(name, values).encoder
        made[name] = encoder(read_condition(name, values), sizes)
    return Encoders(made)

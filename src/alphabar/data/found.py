"""What was found in a source: pictures, what is known of each, and the report about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ..settings.data import DataSettings
from .pictures import PictureSet


@dataclass
class DataReport:
    """What was found in the data; saved with the run and printed before training."""

    source: str
    count: int = 0
    shape: tuple[int, ...] = ()
    sizes: str = ""
    modes: dict[str, int] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    animated: int = 0
    enlarged: int = 0
    greyed: int = 0
    """Pictures in colour that are read in grey."""
    other_files: int = 0
    classes: dict[str, int] = field(default_factory=dict)
    folders: int = 0
    near_duplicates: list[tuple[str, str]] = field(default_factory=list)
    conditions: dict[str, str] = field(default_factory=dict)
    """Where the values of each condition come from."""
    unused: list[str] = field(default_factory=list)
    """What the data offers besides, and how to use it."""
    held_out: list[int] = field(default_factory=list)
    fingerprint: str = ""
    """A hash of pictures, labels, class names, values of conditions, and of which pictures are held out."""

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


@dataclass(frozen=True)
class LoadedData:
    """A training set, a held-out set (it may be empty), the report, and the settings of data and conditions with nothing left open."""

    train: PictureSet
    held_out: PictureSet
    report: DataReport
    settings: DataSettings
    conditions: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass
class Source:
    """Pictures with what the split and the classes need, before both."""

    pictures: np.ndarray
    names: Sequence[str]
    labels: np.ndarray | None = None
    classes: list[str] | None = None
    rows: list[dict[str, Any]] | None = None
    folders: list[str | None] | None = None
    values: dict[str, np.ndarray] = field(default_factory=dict)
    conditions: dict[str, dict[str, Any]] = field(default_factory=dict)

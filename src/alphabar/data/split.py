"""Which class each picture has, and which pictures are held out from training."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigurationError, DataError, nearest
from ..randomness import permutation
from ..settings.data import DataSettings
from .found import DataReport, Source
from .near_duplicates import components
from .readers import CLASS_NEEDS


def resolve_class_from(settings: DataSettings, source: Source) -> str:
    """What "auto" means for this source: labels where there are some; folders only where classes are asked for."""
    asked = settings.conditions is not None and "class" in settings.conditions
    if settings.conditions is not None and not asked:
        if settings.class_from not in ("auto", "none"):
            raise ConfigurationError(
                f"--class-from {settings.class_from} but --cond leaves class out; add class to it, or leave --class-from out"
            )
        return "none"
    if settings.class_from != "auto":
        return settings.class_from
    if source.labels is not None:
        return "label"
    if asked and not (source.folders and all(source.folders)):
        raise ConfigurationError(f"--cond class: the data has no such values; it needs {CLASS_NEEDS}")
    return "folder" if asked else "none"


def say_unused_classes(settings: DataSettings, source: Source, report: DataReport) -> None:
    """Add to the report that there are labels which --cond leaves out."""
    if source.labels is not None and settings.conditions is not None and "class" not in settings.conditions:
        report.unused.append("class (labels)")


def read_labels(kind: str, source: Source) -> tuple[np.ndarray | None, list[str]]:
    """labels (N,) int64 and class names, or (None, [])."""
    if kind == "none":
        return None, []
    if kind == "label" and source.labels is not None:
        values = list(source.labels)
        if source.classes:
            return np.asarray(values, np.int64), source.classes
    elif kind == "folder" and source.folders is not None:
        lost = [name for name, folder in zip(source.names, source.folders, strict=True) if folder is None]
        if lost:
            raise DataError(
                f"--class-from folder: {len(lost)} pictures lie in no sub-folder, the first {lost[0]}; move them into some, or name a column of the metadata"
            )
        values = list(source.folders)
    else:
        values = read_column(source, kind, "--class-from")
    names = sorted({str(value) for value in values}, key=natural)
    numbers = {name: i for i, name in enumerate(names)}
    return np.array([numbers[str(value)] for value in values], np.int64), names


def natural(name: str) -> tuple[int, float, str]:
    return (0, float(name), name) if re.fullmatch(r"-?\d+(\.\d+)?", name) else (1, 0.0, name)


def read_column(source: Source, column: str, option: str) -> list[Any]:
    """The value of each picture in a column of the metadata. Raises ConfigurationError or DataError, naming `option` and what is there."""
    if not source.rows or not any(source.rows):
        offers = "label" if source.labels is not None else "folder" if source.folders is not None else "nothing"
        raise ConfigurationError(f"{option} {column}: this data has no metadata columns; it offers: {offers}")
    known = set().union(*source.rows)
    if column not in known:
        raise ConfigurationError(
            f"{option} {column}: no such column in the metadata; {nearest(column, known - {'file_name'})}"
        )
    lost = [name for name, row in zip(source.names, source.rows, strict=True) if row.get(column) in (None, "")]
    if lost:
        raise DataError(f"column {column!r} is empty for {len(lost)} pictures, the first {lost[0]}; fill it in")
    return [row[column] for row in source.rows]


def choose_held_out(settings: DataSettings, source: Source, pairs: np.ndarray) -> np.ndarray:
    """Which pictures (N,) bool are held out: those in held_out_folder, or about a fraction of all.

    By fraction, near-duplicates and pictures of one group stay on one side, and one picture at least is left for training.
    """
    n = len(source.names)
    if settings.held_out_folder is not None:
        mask = np.array([settings.held_out_folder in Path(name).parts[:-1] for name in source.names])
        if mask.all() or not mask.any():
            raise DataError(
                f"data.held_out_folder = {settings.held_out_folder!r} holds {int(mask.sum())} of {n} pictures; it must hold some and not all"
            )
        return mask
    if settings.group is not None:
        first: dict[str, int] = {}
        links = [
            (first.setdefault(str(value), i), i)
            for i, value in enumerate(read_column(source, settings.group, "data.group"))
        ]
        pairs = np.concatenate([pairs, links])
    groups = components(n, pairs)
    wanted = min(round(settings.held_out * n), n - 1)
    taken = pick_groups(groups, wanted)
    if settings.group is not None and wanted and not taken:
        smallest = np.unique(groups, return_counts=True)[1].min()
        raise DataError(
            f"data.held_out = {settings.held_out:g} is {wanted} of {n} pictures, but the smallest group of column {settings.group!r} (with near-duplicates) "
            f"has {smallest}; raise data.held_out, or set it to 0 to hold nothing out"
        )
    return np.isin(groups, taken)


def pick_groups(groups: np.ndarray, wanted: int) -> list[int]:
    """Numbers out of groups (N,), in a fixed random order, as long as they have at most `wanted` pictures together."""
    names, sizes = np.unique(groups, return_counts=True)
    taken = []
    for k in permutation(len(names), "held-out"):
        if sizes[k] <= wanted:
            taken.append(int(names[k]))
            wanted -= int(sizes[k])
    return taken

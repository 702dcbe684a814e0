"""Which conditions data is read for: those that are asked for, or all that it offers, and what it says of their settings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ConfigurationError
from ..settings.data import DataSettings
from .pairs import parallel_folders
from .pictures import PictureSet
from .readers import Conditions, Offer, Readers
from .sources import METADATA_NAMES, PICTURES_FOLDER, Catalogue

if TYPE_CHECKING:
    from .found import DataReport


SHARE_TAKEN = 0.5
"""Of what was not asked for, only what most pictures have is taken: the others are left out."""


def find_offers(
    settings: DataSettings, set_: Conditions, catalogue: Catalogue, report: DataReport, readers: Readers
) -> dict[str, Offer]:
    """What the data offers for each condition that is wanted (class apart): those of data.conditions, otherwise all that are set
    or found. Raises ConfigurationError for one that it does not have."""
    for name, values in set_.items():
        readers.read(name, values)  # a misspelt name or key is an error even where it is not used
    wanted = [name for name in settings.conditions or [] if name != "class"]
    tried = wanted if settings.conditions is not None else [n for n in dict.fromkeys([*readers, *set_]) if n != "class"]
    offers, needed = {}, {*wanted, *(set_ if settings.conditions is None else ())} - {"class"}
    for name in tried:
        values = set_.get(name, {})
        reader, chosen = readers.of(name, values), with_background(readers.read(name, values), settings)
        if reader.derives(chosen):
            report.conditions[name] = "made from the pictures"
            continue
        offer = reader.offer(name, chosen, catalogue)
        share, told = describe_offer(offer, catalogue)
        if offer is not None and (name in needed or share >= SHARE_TAKEN):
            offers[name], report.conditions[name] = offer, told
        elif offer is not None:
            report.unused.append(f"{name} ({told})")
        elif name in needed:
            raise ConfigurationError(
                f"--cond {name}: the data has no such values{missing(chosen, catalogue, report)}; it needs {reader.needs}"
            )
    for name, reader in readers.items():
        if name not in tried and name not in set_ and name != "class":
            offer = reader.offer(name, reader.settings(), catalogue)
            report.unused += [f"{name} ({describe_offer(offer, catalogue)[1]})"] if offer else []
    report.unused += unused_columns(settings, set_, catalogue, report)
    return offers


def unused_columns(settings: DataSettings, set_: Conditions, catalogue: Catalogue, report: DataReport) -> list[str]:
    """The columns that no condition and no setting names."""
    told = " ".join([*report.conditions.values(), *report.unused])
    named = {
        value
        for values in (settings.model_dump(), *set_.values())
        for value in values.values()
        if isinstance(value, str)
    }
    columns = sorted(name for name in catalogue.columns() - named if name)  # a table's numbers often have no name
    return [f"column {name!r}" for name in columns if f"column {name!r}" not in told]


def missing(chosen: Any, catalogue: Catalogue, report: DataReport) -> str:
    """Which column was looked for and which there are, and what else is at hand, in brackets."""
    column, there = getattr(chosen, "column", None), sorted(catalogue.columns())
    found = ([f"columns {', '.join(there)}"] if there else []) + report.unused
    return f" (no column {column!r}; there are {'; '.join(found)})" if column and found else ""


def describe_offer(offer: Offer | None, catalogue: Catalogue) -> tuple[float, str]:
    """The share of the pictures that seem to have a value, and where values come from in words, with the number where some lack one."""
    if offer is None or not catalogue.files:
        return 0.0, ""
    count, n = sum(map(offer.present, catalogue.files)), len(catalogue.files)
    return count / n, offer.origin if count == n else f"{offer.origin}, {count} of {n}"


def with_background(chosen: Any, settings: DataSettings) -> Any:
    """A condition's settings with the background of the data, where it has one of its own that is open."""
    if getattr(chosen, "background", "") is None:
        return chosen.model_copy(update={"background": settings.background})
    return chosen


def settle(
    set_: Conditions,
    settings: DataSettings,
    offers: Mapping[str, Offer],
    values: Mapping[str, np.ndarray],
    readers: Readers,
) -> dict[str, dict[str, Any]]:
    """The settings of all conditions but class that are used, with what the data says filled in, in the order of `data.conditions`."""
    found = {}
    used = settings.conditions if settings.conditions is not None else [*offers, *(n for n in set_ if n not in offers)]
    for name in used:
        if name != "class":
            reader = readers.of(name, set_.get(name, {}))
            plain = with_background(readers.read(name, set_.get(name, {})), settings)
            chosen = offers[name].settings if name in offers else plain
            found[name] = (reader.settle(chosen, values[name]) if name in offers else chosen).model_dump()
    return found


def stack_values(values: list[Any]) -> np.ndarray:
    """Values of any kind as one array; strings become an array of objects."""
    return np.array(values, object) if values and isinstance(values[0], str) else np.array(values)


def swapped_indices(conditions: Conditions, readers: Readers) -> dict[str, np.ndarray]:
    """By condition, what each index (256,) of its maps becomes in a mirrored picture, where that differs."""
    found = {name: readers.of(name, v).mirrored_indices(readers.read(name, v)) for name, v in conditions.items()}
    return {name: indices for name, indices in found.items() if indices is not None}


def pictorial_names(conditions: Conditions, readers: Readers) -> frozenset[str]:
    """The conditions whose values are pictures or maps."""
    return frozenset(name for name, values in conditions.items() if readers.of(name, values).pictorial)


def never_mirrored(words: list[str], data: PictureSet) -> np.ndarray:
    """Which pictures (N,) bool have one of the words in their class or in a text."""
    pattern = words_pattern(words)
    texts = [[data.classes[label] for label in data.labels]] if data.labels is not None else []
    texts += [list(values[:]) for values in data.values.values() if values[:1].dtype == object]
    if not texts:
        raise ConfigurationError(
            "data.flip_except looks for words in captions and classes, and the model is conditioned on neither; leave it out"
        )
    return np.array([bool(pattern.search(" ".join(parts).casefold())) for parts in zip(*texts, strict=True)])


def words_pattern(words: list[str]) -> re.Pattern[str]:
    """Finds any of the words in case-folded text: between letters of a to z only as a whole word, so that right is not in outright;
    other ones anywhere, as Chinese has no spaces."""
    folded = [re.escape(word.casefold()) for word in words]
    return re.compile("|".join(rf"(?<![a-z]){word}(?![a-z])" if word.isascii() else word for word in folded))


def pair_folders(set_: Conditions, folder: Path, class_from: str, readers: Readers) -> list[Path]:
    """Folders whose pictures are pairs of others: those that are declared, and without metadata those that hold the same names."""
    declared = declared_folders(set_, folder, readers)
    if any((folder / name).is_file() for name in METADATA_NAMES):
        return declared  # which list the pictures
    return declared + [path for path in parallel_folders(folder, class_from == "folder") if path not in declared]


def declared_folders(set_: Conditions, folder: Path, readers: Readers) -> list[Path]:
    """Folders of pairs that are set, and those of usual names beside "images"."""
    usual = list(readers) if (folder / PICTURES_FOLDER).is_dir() else []
    chosen = {name: set_.get(name, {}) for name in dict.fromkeys([*usual, *set_])}
    names = [f for name, v in chosen.items() for f in readers.of(name, v).folders(name, readers.read(name, v))]
    explicit = {str(v.get(key)) for v in set_.values() for key in ("folder", "instances") if v.get(key)}
    inside = [folder / name for name in names if (usual or name in explicit) and (folder / name).is_dir()]
    named_from_here = [Path(name).expanduser() for name in explicit if not (folder / name).is_dir()]
    return inside + [path for path in named_from_here if path.is_dir() and not path.samefile(folder)]

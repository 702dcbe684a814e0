"""Pictures that belong to pictures: named in a column of the metadata, or of the same name in a parallel folder, never by order."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ..errors import ConfigurationError, DataError, UnusableData
from .decode import EXTENSIONS, read_header
from .sources import HIDDEN, PICTURES_FOLDER, Catalogue, PictureFile, leads_out, names_below

SUFFIX = "_file_name"
Locate = Callable[[PictureFile], Path | np.ndarray]
"""Where the pair of a picture is, or its pixels where the source is an array. Raises DataError if it has none."""


def find_pairs(
    catalogue: Catalogue, column: str, folder: str | None, usual: Collection[str]
) -> tuple[str, Locate] | None:
    """Where pairs come from, in words, and how to find each, or None if there are none.

    Looked for in this order: `folder` (inside the data, or anywhere), the column, a folder of a `usual` name beside the
    folder "images" that holds the pictures. Raises ConfigurationError for a folder that does not exist.
    """
    if folder is not None:
        return _in_folder(catalogue, pair_folder(catalogue.folder, folder))
    stem = column.removesuffix(SUFFIX)
    named = next((name for name in (column, stem) if name in catalogue.columns()), None)
    if named is not None:
        return f"column {named!r}", lambda file: _of_row(file, named, catalogue.folder)
    if catalogue.folder is not None:
        for name in usual:
            if (catalogue.folder / name).is_dir() and (catalogue.folder / PICTURES_FOLDER).is_dir():
                return _in_folder(catalogue, catalogue.folder / name)
    return None


def parallel_folders(folder: Path, by_class: bool = False) -> list[Path]:
    """The folders beside "images" in which every picture has the name of one in "images": they hold pairs, of whatever kind.

    by_class: folders are classes, so that "images" is one too if there are pictures right in it, and nothing holds pairs.
    """
    pictures = folder / PICTURES_FOLDER
    own = _stems(pictures) if pictures.is_dir() else set()
    if by_class and any("/" not in stem for stem in own):
        return []
    real = pictures.resolve()
    others = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(HIDDEN)]
    apart = [path for path in others if path.resolve() not in (real, *real.parents)]
    return [path for path in apart if own and (stems := _stems(path)) and stems <= own]


def _stems(folder: Path) -> set[str]:
    return {_stem(name) for name in names_below(folder) if PurePosixPath(name).suffix.lower() in EXTENSIONS}


def pair_folder(data: Path | None, folder: str) -> Path:
    """The folder that a setting names: inside the data if there is one of this name, otherwise as it is."""
    for candidate in ([data / folder] if data is not None else []) + [Path(folder).expanduser()]:
        if candidate.is_dir():
            return candidate
    raise ConfigurationError(
        f"there is no folder {folder!r}, neither in the data nor from here; give the pairs' folder"
    )


def _in_folder(catalogue: Catalogue, folder: Path) -> tuple[str, Locate]:
    by_stem: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names_below(folder)):
        if PurePosixPath(name).suffix.lower() in EXTENSIONS:
            by_stem[_stem(name)].append(name)
    roots = (f"{PICTURES_FOLDER}/", "")
    root = next(r for r in roots if all(file.name.startswith(r) for file in catalogue.files))

    def locate(file: PictureFile) -> Path:
        """The file beside a picture."""
        stem = _stem(file.name.removeprefix(root))
        found = by_stem.get(stem, [])
        if len(found) != 1:
            raise DataError(
                f"has no pair: {stem}.* is not in {folder}"
                if not found
                else f"has more than one pair in {folder}: {', '.join(found)}"
            )
        return folder / found[0]

    return f"folder {folder.name}", locate


def _stem(name: str) -> str:
    composed = unicodedata.normalize("NFC", name)  # macOS takes letters apart from their accents
    return str(PurePosixPath(composed).with_suffix(""))


def _of_row(file: PictureFile, column: str, folder: Path | None) -> Path | np.ndarray:
    value: Any = file.row.get(column)
    if isinstance(value, np.ndarray):
        return value
    if not isinstance(value, str) or not value:
        raise DataError(f"has no pair in column {column!r}")
    if leads_out(value):
        raise UnusableData(
            f"{file.name}: {column} {value!r} leads out of the folder of the data; give a path inside it"
        )
    path = (folder or Path()) / value.replace("\\", "/")
    if not path.is_file():
        raise DataError(f"its pair {value} does not exist")
    return path


def has_pair(locate: Locate) -> Callable[[PictureFile], bool]:
    """Whether a picture's pair is found."""

    def present(file: PictureFile) -> bool:
        """Whether it is there."""
        try:
            locate(file)
        except UnusableData:
            return True  # an error that reading will tell
        except DataError:
            return False
        return True

    return present


def check_same_aspect(file: PictureFile, pair: Path | np.ndarray) -> None:
    """Raise DataError if a pair has another aspect than its picture (a pixel of rounding is allowed): they would not lie over each other."""
    if isinstance(pair, np.ndarray):
        channels_first = pair.ndim == 3 and pair.shape[-1] > 4 >= pair.shape[0]
        own, other, name = file.size, pair.shape[1:3] if channels_first else pair.shape[:2], ""
    else:
        own, other, name = header_size(file.path), header_size(pair), f" {pair.name}"
    if own is not None and len(other) == 2 and aspects_differ(own, other):
        raise DataError(f"its pair{name} is {other[0]}x{other[1]}, itself {own[0]}x{own[1]}: another aspect")


def header_size(path: Path) -> tuple[int, int]:
    """Height and width of a picture file."""
    header = read_header(path)
    return header.height, header.width


def aspects_differ(a: Sequence[int], b: Sequence[int]) -> bool:
    """Whether two sizes (height, width) differ in aspect by more than a pixel of rounding."""
    return abs(a[0] * b[1] - a[1] * b[0]) > max(*a, *b)

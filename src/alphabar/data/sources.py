"""Where pictures come from: what a folder, its metadata or an array file offers, before anything is decoded."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, overload

import numpy as np

from ..errors import DataError
from .decode import EXTENSIONS

METADATA_NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
PICTURES_FOLDER = "images"  # where pictures lie beside the folders of their pairs
CAPTION_SUFFIX = ".txt"  # of a picture's caption beside it
HIDDEN = (".", "__MACOSX")
EXPECTED_VALUES = "expected uint8, uint16 up to 65535, bool, integers in 0..255, or floats in [0, 1] or [-1, 1]"
RUN_FILE = "run.json"  # what a run folder of alphabar has
UNCLEAR_LOW = -0.1  # floats from just below 0 are neither: stretched from [-1, 1] they would come out grey


@dataclass(frozen=True)
class PictureFile:
    """One picture of a folder: its name relative to the folder, and its row of the metadata; of an array, its height and width."""

    path: Path
    name: str
    row: dict[str, Any] = field(default_factory=dict)
    size: tuple[int, int] | None = None

    @property
    def folder(self) -> str | None:
        """The name of the folder that it lies in, None at the top."""
        return PurePosixPath(self.name).parent.name or None


@dataclass(frozen=True)
class ArrayItems(Sequence[PictureFile]):
    """The n pictures of an array file with their items of these arrays, which hold n each; made when they are asked for."""

    arrays: Mapping[str, np.ndarray]
    n: int
    size: tuple[int, int] | None = None

    def __len__(self) -> int:
        return self.n

    @overload
    def __getitem__(self, which: int) -> PictureFile: ...
    @overload
    def __getitem__(self, which: slice) -> list[PictureFile]: ...
    def __getitem__(self, which: int | slice) -> PictureFile | list[PictureFile]:
        i = range(self.n)[which]
        if isinstance(i, range):
            return [self[each] for each in i]
        return PictureFile(Path(), f"#{i}", {key: array[i] for key, array in self.arrays.items()}, self.size)


@dataclass(frozen=True)
class Catalogue:
    """The pictures of a source with all that is known of them before they are decoded.

    `rows` tells whether there are metadata. Pictures of an array have rows that hold the arrays' own items.
    """

    folder: Path | None
    files: Sequence[PictureFile]
    rows: bool = False

    def columns(self) -> set[str]:
        """The names of all columns of the metadata."""
        return {column for file in self.files for column in file.row} - {"file_name"} if self.rows else set()


def list_pictures(folder: Path, passed_over: Collection[Path] = ()) -> tuple[list[PictureFile], int]:
    """The picture files below a folder in the order of their names, and how many other files were passed over.

    With a metadata file, the pictures are those that it lists. Hidden files and folders, and the folders in `passed_over`
    (which hold the pictures' pairs), are passed over. Raises DataError if there is no picture.
    """
    rows = read_metadata(folder)
    if rows is not None:
        return [PictureFile(folder / name, name, row) for name, row in rows], 0
    hidden = {os.path.realpath(path) for path in passed_over}
    found = [PurePosixPath(name) for name in sorted(names_below(folder, hidden))]
    pictures = [PictureFile(folder / name, str(name)) for name in found if name.suffix.lower() in EXTENSIONS]
    if not pictures:
        kinds = ", ".join(sorted({name.suffix.lower() or name.name for name in found})[:8]) or "nothing"
        raise DataError(f"no pictures in {folder} (found: {kinds}); alphabar reads {', '.join(sorted(EXTENSIONS))}")
    stems = {name.with_suffix("") for name in found if name.suffix.lower() in EXTENSIONS}
    captions = sum(name.suffix.lower() == CAPTION_SUFFIX and name.with_suffix("") in stems for name in found)
    return pictures, len(found) - len(pictures) - captions


def names_below(folder: Path, passed_over: Collection[str] = ()) -> Iterator[str]:
    """What is not hidden and is a file, a broken link, or a folder called like a picture (which the report should name).

    Links to folders outside are followed; each folder is visited once, under its own name if it lies inside.
    """
    top, visited = os.path.realpath(folder), set()
    for root, folders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        real = os.path.realpath(root)
        if real in visited or real in passed_over or (os.path.islink(root) and real.startswith(top + os.sep)):
            folders.clear()
            continue
        if root != str(folder) and RUN_FILE in files:  # a run's previews are no data
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith(HIDDEN))
        found = files + [name for name in folders if PurePosixPath(name).suffix.lower() in EXTENSIONS]
        yield from ((Path(root) / name).relative_to(folder).as_posix() for name in found if not name.startswith(HIDDEN))


def _refuse(error: OSError) -> None:
    raise DataError(
        f"cannot look into {error.filename}: {error.strerror}; allow reading it, or move it out of the data"
    )


def read_metadata(folder: Path) -> list[tuple[str, dict[str, Any]]] | None:
    """(file_name, row) for each line of the folder's metadata.csv or metadata.jsonl, None if there is neither.

    Raises DataError for a row without file_name, or one that leads out of the folder.
    """
    for name in METADATA_NAMES:
        path = folder / name
        if path.is_file():
            rows = [(_checked_name(row, path, line), row) for line, row in _read_rows(path)]
            if not rows:
                raise DataError(
                    f"{path} lists no pictures; give it a row for each, or remove it to take all pictures of the folder"
                )
            return rows
    return None


def _read_rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    if path.suffix == ".parquet":
        return _read_parquet(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            if path.suffix == ".csv":
                reader = csv.DictReader(stream)
                return [(reader.line_num, row) for row in reader]
            return [(line, _read_line(text, path, line)) for line, text in enumerate(stream, start=1) if text.strip()]
    except UnicodeDecodeError as error:
        raise DataError(f"cannot read {path}: {error}; save it as UTF-8") from None
    except (OSError, csv.Error) as error:
        raise DataError(f"cannot read {path}: {error}") from None


def _read_line(text: str, path: Path, line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}, line {line}: {error.msg} at column {error.colno}; each line is one JSON object"
        ) from None


def _read_parquet(path: Path) -> list[tuple[int, dict[str, Any]]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(f"{path} needs pyarrow: pip install 'alphabar[parquet]', or save it as metadata.csv") from None
    try:
        return list(enumerate(pyarrow.parquet.read_table(path).to_pylist(), start=1))
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"cannot read {path}: {error}") from None


def _checked_name(row: Any, path: Path, line: int) -> str:
    name = row.get("file_name") if isinstance(row, dict) else None
    if not isinstance(name, str) or not name:
        found = ", ".join(str(key) for key in row) if isinstance(row, dict) else json.dumps(row)
        raise DataError(
            f"{path}, line {line}: no 'file_name' (found: {found}); each row needs one, relative to the folder"
        )
    if None in row:
        raise DataError(
            f"{path}, line {line}: more values than the header has columns; put quotes around a value with commas in it"
        )
    for column, value in row.items():
        if str(column).endswith("file_name") and isinstance(value, str) and leads_out(value):
            raise DataError(f"{path}, line {line}: {column} {value!r} leads out of the folder; give a path inside it")
    return str(PurePosixPath(name.replace("\\", "/")))


def leads_out(name: str) -> bool:
    """Whether a path in metadata is absolute or goes up."""
    posix = PurePosixPath(name.replace("\\", "/"))
    return posix.is_absolute() or ".." in posix.parts or bool(PureWindowsPath(name).drive)


def read_array(path: Path) -> tuple[np.ndarray, np.ndarray | None, dict[str, np.ndarray]]:
    """Pictures (N, H, W, C) uint8, labels (N,) or None, and other arrays by name, from a .npy or .npz file.

    In an .npz the pictures are `images`, `x` or the only array of three dimensions or more, the labels `labels` or `y`.
    (N, H, W) is grey; (N, C, H, W) is recognised by its small second dimension. uint8 as it is, uint16 / 257, floats of
    [0, 1] or [-1, 1] scaled. Raises DataError for anything else.
    """
    arrays = _read_arrays(path)
    key = next((k for k in ("images", "x") if k in arrays), None) or _only_pictures(arrays, path)
    labels = arrays.get("labels", arrays.get("y"))
    pictures = _channels_last(arrays[key], path)
    if labels is not None and labels.shape != (len(pictures),):
        raise DataError(
            f"{path}: {len(pictures)} pictures but labels of shape {labels.shape}; expected ({len(pictures)},)"
        )
    others = {name: array for name, array in arrays.items() if name not in (key, "labels", "y") and array.ndim}
    return to_uint8_values(pictures, str(path)), labels, others


def items_of(arrays: Mapping[str, np.ndarray], n: int, size: tuple[int, int] | None = None) -> ArrayItems:
    """The n pictures of an array file, of this height and width, with their items of the arrays that hold n."""
    return ArrayItems({key: array for key, array in arrays.items() if len(array) == n}, n, size)


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        loaded = np.load(path, mmap_mode="r" if path.suffix.lower() == ".npy" else None, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"images": loaded}
        with loaded:
            return {key: array for key in loaded.files if isinstance(array := loaded[key], np.ndarray)}
    except Exception as error:  # numpy, zipfile and zlib raise many kinds for damaged files
        raise DataError(f"cannot read arrays from {path}: {error}") from None


def _only_pictures(arrays: dict[str, np.ndarray], path: Path) -> str:
    candidates = [key for key, array in arrays.items() if array.ndim >= 3]
    if len(candidates) != 1:
        shapes = ", ".join(f"{key} {array.shape}" for key, array in arrays.items())
        raise DataError(f"{path}: expected one array of pictures named 'images', got {shapes or 'no arrays'}")
    return candidates[0]


def _channels_last(array: np.ndarray, path: Path) -> np.ndarray:
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim == 4 and array.shape[-1] > 4 >= array.shape[1] >= 1:
        array = array.transpose(0, 2, 3, 1)
    if array.ndim != 4 or not 1 <= array.shape[-1] <= 4 or 0 in array.shape:
        raise DataError(
            f"{path}: pictures must be (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 to 4 channels, got {array.shape}"
        )
    return array


def to_uint8_values(array: np.ndarray, name: str) -> np.ndarray:
    """Picture values of any usual type as uint8. Raises DataError for an unclear range."""
    kind = array.dtype.kind
    if array.dtype == np.uint8:
        return array
    if kind == "b":
        return array.astype(np.uint8) * 255
    if kind not in "iuf":
        raise DataError(f"{name}: values of type {array.dtype}; {EXPECTED_VALUES}")
    low, high = float(np.float32(array.min())), float(np.float32(array.max()))
    sixteen_bit = kind == "u" and array.dtype.itemsize == 2
    if sixteen_bit and high > 255:  # otherwise they are 8-bit values in a wider type, which would come out black
        return np.round(array / 257).astype(np.uint8)
    if kind in "iu" and not sixteen_bit and low >= 0 and high <= 255:
        return array.astype(np.uint8)
    if kind == "f" and low >= -1 and high <= 1 and not UNCLEAR_LOW < low < 0:
        values = np.asarray(array, dtype=np.float32)
        return np.round((values + 1) * 127.5 if low < 0 else values * 255).astype(np.uint8)
    raise DataError(f"{name}: values of type {array.dtype} from {low:g} to {high:g}; {EXPECTED_VALUES}")

"""New pictures, and where they go: an array file, a grid, an animation or a folder, by the name of the path. Written as they come."""

from __future__ import annotations

import contextlib
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..errors import ConfigurationError
from ..storage import check_ordinary, replacing, replacing_folder, storage_errors
from .images import grid, save_png, with_labels

LARGEST_GRID = 400
ANIMATIONS = (".webp", ".gif")
OTHER_PICTURES = (".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
LONGEST_NAME = 40  # characters of a file name that tell what was asked


@dataclass(frozen=True)
class Samples:
    """New pictures (N, H, W, C) uint8 with their seeds, what was asked of each ({"class": "cat"}, in words), and the record of how
    they were made."""

    pictures: np.ndarray
    seeds: list[int]
    asked: list[dict[str, Any]]
    record: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.pictures)

    def record_of(self, i: int) -> dict[str, Any]:
        """All that is needed to make picture i again."""
        return {"seed": self.seeds[i]} | self.asked[i] | self.record

    @property
    def classes(self) -> list[str | None]:
        """The class that was asked of each picture, or None."""
        return [asked.get("class") for asked in self.asked]

    def save(self, path: str | Path) -> Path:
        """Write them: .npy or .npz an array, .png a grid, otherwise a folder with a PNG each and the grid."""
        with open_writer(Path(path), len(self)) as writer:
            writer.add(self)
        return Path(path)


@dataclass(frozen=True)
class Layout:
    """How a grid is laid out: the number of columns (default: about as many as rows), and words beside them."""

    columns: int | None = None
    column_labels: Sequence[str] = ()
    row_labels: Sequence[str] = ()


class Writer(ABC):
    """Takes batches of samples."""

    @abstractmethod
    def add(self, samples: Samples) -> None:
        """Take the next batch."""

    def close(self) -> None:  # noqa: B027  (an array has nothing to finish)
        """Finish: called once after the last batch, if nothing failed."""


class ArrayWriter(Writer):
    """A uint8 array (N, H, W, C) in a .npy stream whose final size is known from the start."""

    def __init__(self, stream: IO[bytes], n: int) -> None:
        self.stream, self.n, self.started = stream, n, False

    def add(self, samples: Samples) -> None:
        """Append the pictures; the header goes before the first."""
        if not self.started:
            header = {"descr": "|u1", "fortran_order": False, "shape": (self.n, *samples.pictures.shape[1:])}
            np.lib.format.write_array_header_1_0(self.stream, header)
            self.started = True
        self.stream.write(np.ascontiguousarray(samples.pictures).tobytes())


class GridWriter(Writer):
    """One PNG with all pictures; its text chunk lists every seed."""

    def __init__(self, path: Path, limit: int | None = None, layout: Layout | None = None) -> None:
        self.path, self.limit, self.layout = path, limit, layout or Layout()
        self.parts: list[Samples] = []

    def add(self, samples: Samples) -> None:
        """Keep the pictures, up to the limit."""
        have = sum(len(part) for part in self.parts)
        if self.limit is None or have < self.limit:
            self.parts.append(samples)

    def close(self) -> None:
        """Write the grid."""
        pictures = np.concatenate([part.pictures for part in self.parts])[: self.limit]
        seeds = [seed for part in self.parts for seed in part.seeds][: self.limit]
        asked = [own for part in self.parts for own in part.asked][: self.limit]
        record: dict[str, Any] = {"seeds": seeds}
        for key in dict.fromkeys(key for own in asked for key in own):
            record["classes" if key == "class" else key] = [own.get(key) for own in asked]
        drawn = grid(pictures, self.layout.columns)
        if self.layout.column_labels or self.layout.row_labels:
            drawn = with_labels(drawn, self.layout.column_labels, self.layout.row_labels)
        save_png(self.path, drawn, record | self.parts[0].record)


class FolderWriter(Writer):
    """A PNG a sample, numbered, and grid.png with the first of them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        self.grid = GridWriter(folder / "grid.png", LARGEST_GRID)

    def add(self, samples: Samples) -> None:
        """Write each picture."""
        for i, picture in enumerate(samples.pictures):
            name = _file_name("-".join(Path(str(word)).stem for word in samples.asked[i].values()))[:LONGEST_NAME]
            suffix = f"-{name}" if name else ""
            save_png(self.folder / f"{self.count:06d}{suffix}.png", picture, samples.record_of(i))
            self.count += 1
        self.grid.add(samples)

    def close(self) -> None:
        """Write the grid."""
        self.grid.close()


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in name)


def check_output(path: Path) -> None:
    """Raise ConfigurationError or StorageError, before any work is done, if samples cannot go to this path."""
    check_ordinary(path)
    if path.parent.exists() and not path.parent.is_dir():
        raise ConfigurationError(f"{path.parent} is a file, so {path} cannot be written; choose another --out")
    if path.is_dir() and any(path.iterdir()):
        raise ConfigurationError(f"{path} is a folder that is not empty; choose a new one")
    if path.suffix.lower() in OTHER_PICTURES and not path.is_dir():
        raise ConfigurationError(
            f"{path}: a grid is written as .png, which keeps every pixel; give {path.with_suffix('.png').name}, or a folder"
        )
    if path.exists() and path.is_file() and path.suffix.lower() not in (".npy", ".npz", ".png", *ANIMATIONS):
        raise ConfigurationError(f"{path} is a file; give a .npy, .npz, .png, .webp or .gif to write, or a new folder")


@contextlib.contextmanager
def open_writer(path: Path, n: int, layout: Layout | None = None) -> Iterator[Writer]:
    """A writer of n samples for this path; what it writes appears under the path when the block ends well."""
    check_output(path)
    match path.suffix.lower():
        case ".webp" | ".gif":
            raise ConfigurationError(
                f"{path}: an animation shows the way from noise, not only its end; use alphabar sample --out {path.name}"
            )
        case ".npy":
            with replacing(path) as stream:
                yield ArrayWriter(stream, n)
        case ".npz":
            with (
                replacing(path) as stream,
                zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive,
                archive.open("images.npy", "w", force_zip64=True) as member,
            ):
                yield ArrayWriter(member, n)
        case ".png":
            writer = GridWriter(path, layout=layout)
            yield writer
            writer.close()
        case _:
            with storage_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                if path.is_dir():
                    path.rmdir()
            with replacing_folder(path) as folder:
                folder_writer = FolderWriter(folder)
                yield folder_writer
                folder_writer.close()

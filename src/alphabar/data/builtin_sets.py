"""The sets that alphabar knows by name."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable
from functools import partial
from importlib.resources import files
from pathlib import Path

import numpy as np

from ..errors import DataError

FASHION_MNIST_FOLDER = Path("/usr/share/datasets/fashion-mnist")  # where Debian's package dataset-fashion-mnist puts it
FASHION_MNIST_CLASSES = [
    "T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
]  # fmt: skip
IDX_UINT8 = 8


def load_digits(path: str | None = None) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """1,797 handwritten digits, 8x8 grey: (N, 8, 8, 1) uint8, labels (N,) int64, class names. Ships with alphabar (CC BY 4.0)."""
    file = Path(path) if path else files("alphabar.data").joinpath("builtin/digits.csv.gz")
    try:
        rows = np.array(
            [line.split(",") for line in gzip.decompress(file.read_bytes()).decode().split()], dtype=np.float64
        )
        pictures = np.round(rows[:, :64] * 255 / 16).astype(np.uint8).reshape(-1, 8, 8, 1)
        return pictures, rows[:, 64].astype(np.int64), [str(digit) for digit in range(10)]
    except (OSError, EOFError, ValueError, IndexError, zlib.error) as error:
        raise DataError(
            f"{file} is not the digits as alphabar keeps them (.csv.gz): {error}; leave data.path out for those that ship with it"
        ) from None


def load_fashion_mnist(path: str | None = None, part: str = "train") -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Zalando's Fashion-MNIST (MIT licence), 28x28 grey: 60,000 training pictures, or 10,000 with part="t10k".

    Looks in `path` or where Debian's package puts it, for the four idx files, with or without .gz. Raises DataError if absent.
    """
    folder = Path(path).expanduser() if path else FASHION_MNIST_FOLDER
    pictures = read_idx(find_idx(folder, f"{part}-images-idx3-ubyte"))
    labels = read_idx(find_idx(folder, f"{part}-labels-idx1-ubyte"))
    if pictures.ndim != 3 or labels.shape != pictures.shape[:1] or (labels >= len(FASHION_MNIST_CLASSES)).any():
        raise DataError(
            f"the {part} files in {folder} do not fit together: pictures {pictures.shape}, labels {labels.shape}; "
            f"expected (N, 28, 28) and (N,) below {len(FASHION_MNIST_CLASSES)}; download them again"
        )
    return pictures[..., None], labels.astype(np.int64), list(FASHION_MNIST_CLASSES)


def find_idx(folder: Path, name: str) -> Path:
    """The file of this name in the folder, with or without .gz."""
    for candidate in (folder / f"{name}.gz", folder / name):
        if candidate.is_file():
            return candidate
    raise DataError(
        f"no {name}[.gz] in {folder}; on Debian and Ubuntu: sudo apt-get install dataset-fashion-mnist; "
        "elsewhere, download the four files of github.com/zalandoresearch/fashion-mnist and pass --set data.path=FOLDER"
    )


def read_idx(path: Path) -> np.ndarray:
    """The uint8 array in an idx file, compressed or not. Raises DataError if it is damaged."""
    try:
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if path.suffix == ".gz" else raw
        kind, dims = raw[2], raw[3]
        shape = struct.unpack(f">{dims}I", raw[4 : 4 + 4 * dims])
        if kind != IDX_UINT8:
            raise ValueError(f"type {kind:#x} instead of bytes")
        return np.frombuffer(raw, np.uint8, offset=4 + 4 * dims).reshape(shape)
    except (OSError, EOFError, ValueError, IndexError, struct.error, zlib.error) as error:
        raise DataError(f"{path} is not a whole idx file: {error}; download it again") from None


BUILTIN_SETS: dict[str, Callable[[str | None], tuple[np.ndarray, np.ndarray, list[str]]]] = {
    "digits": load_digits,
    "fashion-mnist": load_fashion_mnist,
    "fashion-mnist-test": partial(load_fashion_mnist, part="t10k"),
}
"""Loaders by name; each takes the folder or file of data.path, or None for the usual place."""

"""Pictures and files to read back."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from alphabar.conditions.kinds import load_with_conditions
from alphabar.data.load import LoadedData
from alphabar.settings.data import DataSettings


def load(source: Path | str, cache: Path | None = None, **settings) -> LoadedData:
    return load_with_conditions(DataSettings(source=str(source), **settings), cache)


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    """(H, W, C) uint8, no two alike."""
    return np.random.default_rng([seed, height, width]).integers(0, 256, (height, width, channels), dtype=np.uint8)


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(H, W, 3) uint8: smooth, as pictures of things are, and unlike those of other seeds."""
    return np.asarray(Image.fromarray(noise(6, 6, 3, seed)).resize((width, height), Image.Resampling.BICUBIC))


def save(path: Path, picture: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(picture[:, :, 0] if picture.shape[2:] == (1,) else picture)
    image.save(path, **options)
    return path


def save_many(folder: Path, names: list[str], size: int = 8) -> Path:
    """A different grey picture under each name."""
    for i, name in enumerate(names):
        save(folder / name, noise(size, size, 1, seed=i))
    return folder


def with_metadata(folder: Path, rows: str, n: int = 12) -> Path:
    save_many(folder, [f"{k}.png" for k in range(n)])
    (folder / "metadata.csv").write_text(rows, encoding="utf-8")
    return folder


def npz(folder: Path, **arrays: np.ndarray) -> Path:
    np.savez(folder / "set.npz", **arrays)
    return folder / "set.npz"


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


UNDO = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def stored_turned(image: Image.Image, orientation: int) -> Image.Image:
    """What a camera stores so that a viewer that minds the orientation shows `image`."""
    return image if orientation == 1 else image.transpose(UNDO[orientation])


GREY, COLOUR = 0, 2  # PNG colour types


def png_16_bit(path: Path, values: np.ndarray, colour_type: int, clear: int | None = None) -> Path:
    """A PNG of 16 bits a channel, which Pillow cannot write in colour; the grey value `clear` is marked as transparent."""
    height, width = values.shape[:2]
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
    return png(path, struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0), lines, clear)


def png(path: Path, header: bytes, lines: bytes, clear: int | None = None) -> Path:
    marked = [] if clear is None else [(b"tRNS", struct.pack(">H", clear))]
    chunks = [(b"IHDR", header), *marked, (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path

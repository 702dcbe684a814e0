"""One picture file, of whatever kind, as a uint8 array of the size and channels wanted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from ..errors import AlphabarError, DataError, UnusableData
from ..settings.conditions import check_colour

EXTENSIONS = {
    ".png", ".jpg", ".jpeg", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".avif", ".jp2", ".tga", ".ico",
}  # fmt: skip
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "TGA", "ICO")
SIXTEEN_BIT_FORMATS = {"PNG", "PPM"}  # in mode I, Pillow gives their values in 0..65535 always
GREY_MODES = {"1", "L", "I", "F"}
PIL_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


@dataclass(frozen=True)
class Header:
    """What a file says of itself before it is decoded: height, width after EXIF rotation, Pillow's mode, frames."""

    height: int
    width: int
    mode: str
    frames: int

    @property
    def grey(self) -> bool:
        """Whether the picture is grey without alpha."""
        return self.mode in GREY_MODES or self.mode.startswith("I;16")


def read_header(path: Path) -> Header:
    """The header of a picture file. Raises DataError if it is not a readable picture."""
    with opened(path) as image:
        # Pillow gives the size of a TIFF as shown or as stored, by its version; all other kinds as stored
        width, height = (image.tag_v2[256], image.tag_v2[257]) if isinstance(image, TiffImageFile) else image.size
        if image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8):
            width, height = height, width
        still = image.format == "MPO"  # a phone's photo with its preview behind it
        frames = 1 if still else getattr(image, "n_frames", 1)
        return Header(height, width, image.mode, frames)


def read_picture(path: Path, size: tuple[int, int], channels: int, background: str = "white") -> np.ndarray:
    """The picture as (height, width, channels) uint8: rotated as EXIF says, alpha over `background` unless kept (2 or 4
    channels), scaled with antialiasing to cover `size` and cropped in the middle. Of an animation, the first frame.

    Raises DataError if the file is damaged.
    """
    with opened(path) as image:
        image.draft(None, (2 * max(size), 2 * max(size)))  # JPEG only: decode at a fraction, never below twice the size
        ImageOps.exif_transpose(image, in_place=True)
        return fit(to_channels(to_8_bit(image), channels, background), size)


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """The picture, not decoded yet. Whatever Pillow raises from here on becomes a DataError."""
    try:
        if not path.is_file():
            raise DataError(
                "is a folder" if path.is_dir() else "is a broken link" if path.is_symlink() else "is no file"
            )
        # from a stream, as Pillow maps an uncompressed file into memory by its name and then mixes up rows of rotated TIFFs
        with path.open("rb") as stream, Image.open(stream, formats=_formats()) as image:
            yield image
    except AlphabarError:
        raise
    except Exception as error:  # Pillow's plugins raise many kinds for damaged files
        raise DataError(f"cannot be read as a picture: {reason(error)}") from None


@contextmanager
def naming(what: str) -> Iterator[None]:
    """A DataError of the block tells which file it is about."""
    try:
        yield
    except UnusableData:
        raise
    except DataError as error:
        raise DataError(f"{what} {error}") from None


@cache
def _formats() -> tuple[str, ...]:
    """Those of FORMATS that this Pillow reads. Others stay shut: PostScript, for one, would be run by Ghostscript."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def reason(error: Exception) -> str:
    """A short cause without the file's path (which the report gives)."""
    if isinstance(error, UnidentifiedImageError):
        return "it has no known picture format"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text.partition("\n")[0] or type(error).__name__


def to_8_bit(image: Image.Image) -> Image.Image:
    """16-bit, 32-bit and float modes as 8-bit grey, scaled by the range of the type, never clipped to white.

    16-bit values are divided by 257. Mode I with values above 65535 and mode F with values above 255 are ambiguous: DataError.
    """
    if image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.float64)
        grey, clear = _grey(values / 257), image.info.get("transparency")
        if clear is None:
            return grey
        return Image.merge("LA", (grey, Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8))))
    if image.mode not in ("I", "F"):
        return image
    values = np.asarray(image).astype(np.float64)
    low, high = float(values.min()), float(values.max())
    if not np.isfinite(low + high) or low < 0 or high > 65535:
        raise DataError(f"has values from {low:g} to {high:g} in mode {image.mode}; save it as 8 or 16 bit")
    if image.mode == "I":
        return _grey(values / 257 if high > 255 or image.format in SIXTEEN_BIT_FORMATS else values)
    if high > 255:
        raise DataError(f"has float values up to {high:g}; save it as 8 or 16 bit")
    return _grey(values * 255 if high <= 1 else values)


def _grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.round(values).astype(np.uint8))


def to_channels(image: Image.Image, channels: int, background: str) -> Image.Image:
    """The picture in mode L, LA, RGB or RGBA; transparency is laid over the background where the mode has no alpha."""
    transparent = image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info
    if not transparent or channels in (2, 4):
        return image.convert("RGBA").convert(PIL_MODES[channels]) if transparent else image.convert(PIL_MODES[channels])
    rgba = image.convert("RGBA")
    backdrop = Image.new("RGBA", rgba.size, (*check_colour(background, "data.background"), 255))
    return Image.alpha_composite(backdrop, rgba).convert(PIL_MODES[channels])


def fit(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """Scale to cover (height, width) with antialiasing, crop the middle. Returns (height, width, channels) uint8."""
    height, width = size
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    array = np.asarray(image)
    return array[:, :, None] if array.ndim == 2 else array

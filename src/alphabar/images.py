"""Pictures for people: grids, filmstrips, animations, and PNG files that remember how they were made."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from .errors import DataError
from .runs.atomic import write_bytes

SMALLEST_TILE = 48
TEXT_KEY = "alphabar"
FRAME_MS, LAST_FRAME_MS = 60, 2000


def to_image(picture: np.ndarray) -> Image.Image:
    """(H, W, C) uint8 with 1 to 4 channels -> a Pillow image in mode L, LA, RGB or RGBA."""
    return Image.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else picture)


def grid(pictures: np.ndarray, columns: int | None = None, gap: int = 2) -> np.ndarray:
    """(N, H, W, C) uint8 -> one picture (rows, columns, C); small ones are magnified by a whole factor to be seen."""
    n, height, width, channels = pictures.shape
    factor = max(1, math.ceil(SMALLEST_TILE / max(height, width)))
    pictures = pictures.repeat(factor, axis=1).repeat(factor, axis=2)
    height, width = pictures.shape[1:3]
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    canvas = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 255, np.uint8)
    for i, picture in enumerate(pictures):
        top, left = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        canvas[top : top + height, left : left + width] = picture
    return canvas


def filmstrip(rows: Sequence[tuple[str, np.ndarray]]) -> np.ndarray:
    """Rows of (label, picture (H, W, C)) of one width under each other, the label to the left of each. (H', W', C) uint8."""
    margin = 12 + 8 * max(len(label) for label, _ in rows)
    strips = []
    for label, picture in rows:
        strip = Image.new("L", (margin, picture.shape[0]), 255)
        ImageDraw.Draw(strip).text(
            (margin - 6, picture.shape[0] // 2), label, fill=0, anchor="rm", font=ImageFont.load_default(13)
        )
        strips.append(
            np.concatenate([np.repeat(np.asarray(strip)[:, :, None], picture.shape[2], axis=2), picture], axis=1)
        )
    return np.concatenate(strips)


def save_png(path: Path, picture: np.ndarray, record: Mapping[str, Any] | None = None) -> None:
    """Write (H, W, C) uint8 as PNG, with `record` as JSON in a text chunk."""
    info = PngImagePlugin.PngInfo()
    if record is not None:
        info.add_text(TEXT_KEY, json.dumps(record, ensure_ascii=True))
    buffer = io.BytesIO()
    to_image(picture).save(buffer, "PNG", pnginfo=info)
    write_bytes(path, buffer.getvalue())


def read_record(path: Path) -> dict[str, Any]:
    """What `save_png` was told about the picture. Raises DataError if it is no PNG of alphabar's."""
    try:
        with Image.open(path) as image:
            return json.loads(image.info[TEXT_KEY])
    except (OSError, KeyError, json.JSONDecodeError):
        raise DataError(f"{path} is not a PNG made by alphabar (no {TEXT_KEY!r} text chunk)") from None


def save_animation(path: Path, frames: Sequence[np.ndarray]) -> None:
    """Write frames (H, W, C) uint8 as an endless animation, WebP or GIF by the ending of the name; the last frame stays for a while."""
    images = [to_image(frame) for frame in frames]
    durations = [FRAME_MS] * (len(images) - 1) + [LAST_FRAME_MS]
    buffer = io.BytesIO()
    kind = path.suffix.lower().lstrip(".")
    options: dict[str, Any] = {"quality": 80, "method": 4} if kind == "webp" else {"disposal": 2}
    images = [image.convert("RGB" if image.mode in ("L", "RGB") else "RGBA") for image in images]
    images[0].save(buffer, kind.upper(), save_all=True, append_images=images[1:], duration=durations, loop=0, **options)
    write_bytes(path, buffer.getvalue())

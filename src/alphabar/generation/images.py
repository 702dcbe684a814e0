"""Pictures for people: grids, filmstrips, animations, and PNG files that remember how they were made."""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from ..errors import DataError
from ..storage import write_bytes

SMALLEST_TILE = 48
CAPTIONED_TILE = 96
FIRST_BEYOND_LATIN = 0x250
WIDE_FONTS = (
    "NotoSansCJK-Regular.ttc",
    "wqy-microhei.ttc",
    "wqy-zenhei.ttc",
    "PingFang.ttc",
    "Hiragino Sans GB.ttc",
    "msyh.ttc",
    "simsun.ttc",
)
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


def with_labels(picture: np.ndarray, columns: Sequence[str] = (), rows: Sequence[str] = ()) -> np.ndarray:
    """A grid (H, W, C) uint8 with a word over each of its equal columns and one to the left of each of its equal rows, in RGB."""
    image = to_image(picture).convert("RGB")
    _, font = text_font("".join([*columns, *rows]), 13)
    top = 20 if columns else 0
    left = 12 + int(max((font.getlength(row) for row in rows), default=-12))
    canvas = Image.new("RGB", (image.width + left, image.height + top), "white")
    canvas.paste(image, (left, top))
    draw = ImageDraw.Draw(canvas)
    for i, text in enumerate(columns):
        x = left + (i + 0.5) * image.width / len(columns)
        draw.text((x, top // 2), text, fill=0, anchor="mm", font=font)
    for i, text in enumerate(rows):
        y = top + (i + 0.5) * image.height / len(rows)
        draw.text((left - 6, y), text, fill=0, anchor="rm", font=font)
    return np.asarray(canvas)


def captioned(pictures: np.ndarray, captions: Sequence[str]) -> np.ndarray:
    """Pictures (N, H, W, C) uint8 -> (N, H', W', 3): magnified to be seen, each over a line or more of its caption."""
    factor = max(1, math.ceil(CAPTIONED_TILE / max(pictures.shape[1:3])))
    pictures = pictures.repeat(factor, axis=1).repeat(factor, axis=2)
    width = pictures.shape[2]
    _, font = text_font("".join(captions), 11)
    wrapped = [wrap(text_font(caption, 11)[0], width - 4, font) for caption in captions]
    height = pictures.shape[1] + 14 * max(len(lines) for lines in wrapped) + 2
    tiles = []
    for picture, lines in zip(pictures, wrapped, strict=True):
        tile = Image.new("RGB", (width, height), "white")
        tile.paste(to_image(picture).convert("RGB"), (0, 0))
        ImageDraw.Draw(tile).multiline_text((2, picture.shape[0]), "\n".join(lines), fill=0, font=font, spacing=2)
        tiles.append(np.asarray(tile))
    return np.stack(tiles)


def wrap(text: str, width: float, font: Any, most: int = 4) -> list[str]:
    """The text in lines of at most this many pixels, broken between words where there are any; at most `most` lines."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append("")
            longer = word
        while font.getlength(longer) > width and len(longer) > 1:
            cut = next(i for i in range(len(longer) - 1, 0, -1) if i == 1 or font.getlength(longer[:i]) <= width)
            lines[-1], longer = longer[:cut], longer[cut:]
            lines.append("")
        lines[-1] = longer
    return lines[:most]


def text_font(text: str, size: int) -> tuple[str, Any]:
    """The text and a font to draw it with: the built-in one, or for other scripts one of the system's; without one they become ?."""
    if not all(ord(c) < FIRST_BEYOND_LATIN for c in text):
        for name in WIDE_FONTS:
            with contextlib.suppress(OSError):
                return text, ImageFont.truetype(name, size)
        text = "".join(c if ord(c) < FIRST_BEYOND_LATIN else "?" for c in text)
    return text, ImageFont.load_default(size)


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

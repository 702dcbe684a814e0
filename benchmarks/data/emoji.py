"""Folders of emoji with captions and categories, and pairs of two styles, from npm packages.

npm i emoji-datasource-google emoji-datasource-twitter openmoji      first, in any folder
python emoji.py noto NODE_MODULES OUT --size 32                      Noto (Apache-2.0): OUT/*.png and metadata.csv
python emoji.py openmoji NODE_MODULES OUT --size 32                  OpenMoji (CC BY-SA 4.0), needs pip install resvg-py
python emoji.py pairs NODE_MODULES OUT --size 32                     OUT/images: Twemoji (CC BY 4.0), OUT/conditioning: Noto

A tenth of the groups (a drawing and its skin tones are one group) goes to OUT-test, in the same layout: --test-share 0 keeps
all in OUT. Without --variants only drawings of no particular skin tone are taken.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

TONES = {
    "1F3FB": "light skin tone",
    "1F3FC": "medium-light skin tone",
    "1F3FD": "medium skin tone",
    "1F3FE": "medium-dark skin tone",
    "1F3FF": "dark skin tone",
}
FINER = 4  # drawings are rendered so many times larger and then made smaller


@dataclass(frozen=True)
class Emoji:
    """A drawing: its file name without a folder, a caption, its category, and the code of the group it belongs to."""

    file: str
    text: str
    category: str
    group: str


def is_test(group: str, share: float) -> bool:
    """Whether a group belongs to the test part: the first 32 bits of its SHA-256, as a number in [0, 1), are below `share`."""
    return int(hashlib.sha256(group.encode()).hexdigest()[:8], 16) / 2**32 < share


def target(out: Path, group: str, share: float) -> Path:
    """OUT, or OUT-test for a group of the test part."""
    return out.with_name(f"{out.name}-test") if is_test(group, share) else out


def need(path: Path, package: str) -> Path:
    """The path. Raises SystemExit if it is missing."""
    if path.exists():
        return path
    raise SystemExit(f"{path} is missing; run `npm i {package}` and give the folder node_modules that it makes")


def new_folder(out: Path) -> None:
    """Raises SystemExit if OUT or OUT-test is there already: what they hold would mix with what is written."""
    for folder in (out, out.with_name(f"{out.name}-test")):
        if folder.exists():
            raise SystemExit(f"{folder} is there already; remove it or give a new folder")


# --- what the packages hold -------------------------------------------------------------------------------------------------


def datasource(modules: Path, brand: str, variants: bool) -> list[Emoji]:
    """The emoji of emoji-datasource-{google, twitter} that have a picture, with their skin tones if `variants`."""
    package = f"emoji-datasource-{brand}"
    rows = json.loads(need(modules / package / "emoji.json", package).read_text(encoding="utf-8"))
    emoji = [one for row in rows for one in _with_tones(row, brand, variants)]
    return sorted(emoji, key=lambda one: one.file)


def _with_tones(row: dict[str, Any], brand: str, variants: bool) -> Iterable[Emoji]:
    """The emoji of a row of emoji.json. Its skin tones are keyed by one code for each person: 1F3FB-1F3FE."""
    versions = {"": row} | (row.get("skin_variations", {}) if variants else {})
    for codes, version in versions.items():
        if version[f"has_img_{brand}"]:
            tones = ", ".join(TONES[code] for code in codes.split("-") if code)
            text = row["name"].lower() + (f": {tones}" if tones else "")
            yield Emoji(version["image"], text, row["category"], row["unified"])


def openmoji(modules: Path, variants: bool) -> list[Emoji]:
    """The drawings of OpenMoji, named *.svg, with their skin tones if `variants`."""
    rows = json.loads(need(modules / "openmoji" / "data" / "openmoji.json", "openmoji").read_text(encoding="utf-8"))
    taken = [row for row in rows if variants or not row["skintone"]]
    emoji = [Emoji(f"{row['hexcode']}.svg", row["annotation"].lower(), row["group"], group_of(row)) for row in taken]
    return sorted(emoji, key=lambda one: one.file)


def group_of(row: dict[str, Any]) -> str:
    """The code of the drawing without a skin tone, of a row of openmoji.json."""
    return row["skintone_base_hexcode"] or row["hexcode"]


# --- pictures ---------------------------------------------------------------------------------------------------------------


def over_white(picture: Image.Image, size: int) -> Image.Image:
    """RGB of size x size pixels: laid over white, then resized (Lanczos)."""
    picture = picture.convert("RGBA")
    ground = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(ground, picture).convert("RGB").resize((size, size), Image.Resampling.LANCZOS)


def render(svg: str, pixels: int) -> Image.Image:
    """RGBA of an SVG text, pixels wide and high. Raises SystemExit without resvg-py."""
    try:
        import resvg_py
    except ImportError:
        raise SystemExit("OpenMoji is drawn with resvg-py: pip install resvg-py") from None
    data = resvg_py.svg_to_bytes(svg_string=svg, width=pixels, height=pixels, skip_system_fonts=True)
    return Image.open(io.BytesIO(bytes(data))).convert("RGBA")


def read_png(folder: Path, size: int) -> Callable[[Emoji], Image.Image]:
    """From an emoji to its picture, of files in a folder."""
    return lambda one: over_white(Image.open(folder / one.file), size)


def read_svg(folder: Path, size: int) -> Callable[[Emoji], Image.Image]:
    """From an emoji to its picture, of drawings in a folder."""
    return lambda one: over_white(render((folder / one.file).read_text(encoding="utf-8"), FINER * size), size)


# --- folders ----------------------------------------------------------------------------------------------------------------


def save(picture: Image.Image, folder: Path, file: str) -> None:
    """As folder/NAME.png."""
    folder.mkdir(parents=True, exist_ok=True)
    picture.save((folder / file).with_suffix(".png"))


def write_captioned(
    emoji: list[Emoji], picture: Callable[[Emoji], Image.Image], out: Path, share: float
) -> dict[Path, int]:
    """*.png and metadata.csv (file_name, text, category, group) in OUT and OUT-test. Returns how many are in each."""
    rows: dict[Path, list[tuple[str, ...]]] = {}
    for one in emoji:
        folder = target(out, one.group, share)
        save(picture(one), folder, one.file)
        row = (Path(one.file).with_suffix(".png").name, one.text, one.category, one.group)
        rows.setdefault(folder, []).append(row)
    for folder, lines in rows.items():
        with (folder / "metadata.csv").open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream).writerows([("file_name", "text", "category", "group"), *lines])
    return {folder: len(lines) for folder, lines in rows.items()}


def write_pairs(modules: Path, out: Path, size: int, variants: bool, share: float) -> dict[Path, int]:
    """OUT/images (Twemoji) and OUT/conditioning (Noto) with the same names, and OUT-test. Returns how many pairs are in each."""
    other = {one.file for one in datasource(modules, "twitter", variants)}
    both = [one for one in datasource(modules, "google", variants) if one.file in other]
    styles = {"conditioning": google_picture(modules, size), "images": twitter_picture(modules, size)}
    counts: dict[Path, int] = {}
    for one in both:
        folder = target(out, one.group, share)
        for name, picture in styles.items():
            save(picture(one), folder / name, one.file)
        counts[folder] = counts.get(folder, 0) + 1
    return counts


def google_picture(modules: Path, size: int) -> Callable[[Emoji], Image.Image]:
    """From an emoji to its Noto picture."""
    return read_png(
        need(modules / "emoji-datasource-google" / "img" / "google" / "64", "emoji-datasource-google"), size
    )


def twitter_picture(modules: Path, size: int) -> Callable[[Emoji], Image.Image]:
    """From an emoji to its Twemoji picture."""
    folder = modules / "emoji-datasource-twitter" / "img" / "twitter" / "64"
    return read_png(need(folder, "emoji-datasource-twitter"), size)


def openmoji_picture(modules: Path, size: int) -> Callable[[Emoji], Image.Image]:
    """From an emoji to its OpenMoji picture."""
    return read_svg(need(modules / "openmoji" / "color" / "svg", "openmoji"), size)


def make(kind: str, modules: Path, out: Path, size: int, variants: bool, share: float) -> dict[Path, int]:
    """The data set of a kind. Returns how many pictures each folder holds."""
    match kind:
        case "noto":
            emoji, picture = datasource(modules, "google", variants), google_picture(modules, size)
            return write_captioned(emoji, picture, out, share)
        case "openmoji":
            return write_captioned(openmoji(modules, variants), openmoji_picture(modules, size), out, share)
        case "pairs":
            return write_pairs(modules, out, size, variants, share)
    raise ValueError(f"kind {kind!r}; expected noto, openmoji or pairs")


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("noto", "openmoji", "pairs"))
    parser.add_argument("modules", type=Path, help="the folder node_modules that npm made")
    parser.add_argument("out", type=Path, help="the folder to write; the test part goes to a folder OUT-test beside it")
    parser.add_argument("--size", type=int, default=32, help="pixels (default 32)")
    parser.add_argument("--variants", action="store_true", help="skin tones too")
    parser.add_argument("--test-share", type=float, default=0.1, help="of the groups (default 0.1)")
    options = parser.parse_args()
    new_folder(options.out)
    counts = make(options.kind, options.modules, options.out, options.size, options.variants, options.test_share)
    for folder, count in sorted(counts.items()):
        print(f"{count} in {folder}")


if __name__ == "__main__":
    main()

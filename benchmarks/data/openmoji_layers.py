"""Semantic maps from the layers of OpenMoji's drawings (CC BY-SA 4.0), and how well pictures keep to their maps.

npm i openmoji; pip install resvg-py                            first
python openmoji_layers.py NODE_MODULES OUT --size 32            OUT/images, OUT/maps, OUT/classes.csv, and OUT-test of the same layout
python openmoji_layers.py --score SAMPLES.npy --maps OUT-test/maps --real OUT-test/images

SAMPLES holds a picture for each map, in the order of the maps' file names (from the start again if there are more).
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from emoji import FINER, group_of, is_test, need, new_folder, over_white, render, target
from PIL import Image, ImageColor
from shapes import read_pictures

FILLS = {
    "red": "#ea5a47 #d22f27 #781e32",
    "yellow": "#fcea2b #f1b31c #f4aa41 #e27022",
    "green": "#b1cc33 #5c9e31 #186648",
    "blue": "#92d3f5 #61b2e4 #1e50a0",
    "pink": "#ffa7c0 #e67a94 #b399c8 #8967aa",
    "brown": "#a57939 #6a462f #c19a65 #debb90 #fadcbc #352318",
    "grey": "#d0cfce #9b9b9a #ffffff",
    "black": "#3f3f3f #000000",
}
"""OpenMoji's own colours by hue: yellow with orange, pink with purple, grey with white."""
LAYERS = {"line": "line", "line-supplement": "line", "skin": "skin", "skin-shadow": "skin", "hair": "hair"}
"""Class by id; color and color-foreground become hues. skin-shadow covers 0.05 % of all pixels: too few for a class."""
CLASSES = ("background", "line", "skin", "hair", *FILLS)
HUES = np.array([CLASSES.index(hue) for hue, fills in FILLS.items() for _ in fills.split()])
PALETTE = np.array([ImageColor.getrgb(fill) for fills in FILLS.values() for fill in fills.split()], float)
LINE = CLASSES.index("line")
LINE_SHARE = (
    3 / 8
)  # a line is 0.9 pixels wide at 32: with half a pixel asked for it would break where it lies between two
FEWEST_LAYERS = 3
LEVELS = 16  # of each channel, where colours are counted


@dataclass(frozen=True)
class Drawing:
    """A drawing: its code, the code of its group, the picture (S, S, 3) uint8 and its map (S, S) uint8 of class indices."""

    name: str
    group: str
    picture: np.ndarray
    classes: np.ndarray


# --- maps -------------------------------------------------------------------------------------------------------------------


def split_layers(svg: str) -> list[tuple[str, str]]:
    """(id, SVG text of this layer alone) of each top-level group that is not empty, from the bottom up."""
    root = ElementTree.fromstring(svg)
    layers = []
    for group in (child for child in root if len(child)):
        alone = ElementTree.Element(root.tag, root.attrib)
        alone.append(group)
        layers.append((group.get("id", ""), ElementTree.tostring(alone, encoding="unicode")))
    return layers


def layer_classes(name: str, drawn: np.ndarray) -> np.ndarray:
    """Class indices of opaque pixels (N, 3) of a layer: that of its id, or the hue of the nearest fill."""
    if name in LAYERS:
        return np.full(len(drawn), CLASSES.index(LAYERS[name]))
    if not name.startswith("color"):
        raise SystemExit(f"layer {name!r}; expected {', '.join(LAYERS)}, color or color-foreground")
    return HUES[((drawn[:, None].astype(float) - PALETTE) ** 2).sum(-1).argmin(1)]


def class_map(layers: list[tuple[str, str]], size: int) -> np.ndarray:
    """(size, size) uint8: of 4 x 4 points a pixel each has the class of the topmost layer there; the pixel takes the line
    if 3/8 of them are of it, else the most frequent other class."""
    fine = np.zeros((FINER * size, FINER * size), int)
    for name, svg in layers:
        drawn = np.asarray(render(svg, FINER * size))
        opaque = drawn[..., 3] > 127
        fine[opaque] = layer_classes(name, drawn[opaque][:, :3])
    points = fine.reshape(size, FINER, size, FINER)[..., None] == np.arange(len(CLASSES))
    share = points.mean((1, 3))
    line = share[..., LINE] >= LINE_SHARE
    share[..., LINE] = 0
    return np.where(line, LINE, share.argmax(-1)).astype(np.uint8)


def read_drawings(modules: Path, size: int) -> list[Drawing]:
    """All drawings of at least three layers, in the order of their codes, with their skin tones."""
    folder = need(modules / "openmoji" / "color" / "svg", "openmoji")
    rows = json.loads(need(modules / "openmoji" / "data" / "openmoji.json", "openmoji").read_text(encoding="utf-8"))
    drawings = []
    for row in sorted(rows, key=lambda row: row["hexcode"]):
        svg = (folder / f"{row['hexcode']}.svg").read_text(encoding="utf-8")
        layers = split_layers(svg)
        if len(layers) >= FEWEST_LAYERS:
            picture = np.asarray(over_white(render(svg, FINER * size), size))
            drawings.append(Drawing(row["hexcode"], group_of(row), picture, class_map(layers, size)))
    return drawings


def mean_colours(pictures: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """The mean colour (K, 3) uint8 of the pixels of each class, of pictures (N, H, W, 3) and maps (N, H, W)."""
    means = [pictures[maps == k].mean(0) if (maps == k).any() else np.zeros(3) for k in range(len(CLASSES))]
    return np.rint(means).astype(np.uint8)


def write(drawings: list[Drawing], out: Path, share: float) -> None:
    """Pictures, maps and classes of both parts; the colours are the training part's means."""
    training = [one for one in drawings if not is_test(one.group, share)]
    colours = mean_colours(np.stack([o.picture for o in training]), np.stack([o.classes for o in training]))
    for folder in sorted({target(out, one.group, share) for one in drawings}):
        part = [one for one in drawings if target(out, one.group, share) == folder]
        for name in ("images", "maps"):
            (folder / name).mkdir(parents=True)
        for one in part:
            Image.fromarray(one.picture).save(folder / "images" / f"{one.name}.png")
            picture = Image.fromarray(one.classes)
            picture.putpalette(colours.tobytes())
            picture.save(folder / "maps" / f"{one.name}.png")
        write_classes(folder / "classes.csv", colours)
        print(f"{len(part)} pictures and maps of {len({one.group for one in part})} groups in {folder}")


def write_classes(path: Path, colours: np.ndarray) -> None:
    """index, name, colour (#rrggbb) of each class."""
    rows = [(k, name, f"#{bytes(colours[k]).hex()}") for k, name in enumerate(CLASSES)]
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("index", "name", "colour"), *rows])


# --- the score --------------------------------------------------------------------------------------------------------------


def by_mean(pictures: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Maps (N, H, W) of pictures (N, H, W, 3): the class whose mean colour is nearest to the pixel's."""
    distances = [((pictures - colour.astype(float)) ** 2).sum(-1) for colour in colours]
    return np.argmin(distances, 0)


def binned(pictures: np.ndarray) -> np.ndarray:
    """The number of each pixel's colour among 16^3, (N, H, W) of (N, H, W, 3) uint8."""
    red, green, blue = np.moveaxis(pictures // (256 // LEVELS), -1, 0).astype(int)
    return (red * LEVELS + green) * LEVELS + blue


def count_colours(pictures: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """How often each of the 16^3 colours is in each class, (4096, K), plus 0.001."""
    counts = np.full((LEVELS**3, len(CLASSES)), 1e-3)
    np.add.at(counts, (binned(pictures), maps), 1)
    return counts


def by_counts(pictures: np.ndarray, maps: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Maps of pictures: argmax over the classes k that the asked map has of n(colour, k) / sqrt(n(k)).

    Unlike a mean it knows that skin and hair have several colours, and that yellow is skin where the map asks for skin and for
    nothing else that is yellow. The root lies between counting every pixel alike and every class alike.
    """
    asked = (maps.reshape(len(maps), -1, 1) == np.arange(len(CLASSES))).any(1)
    return ((counts / np.sqrt(counts.sum(0)))[binned(pictures)] * asked[:, None, None]).argmax(-1)


def ious(found: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Intersection over union (K,) of each class over all pixels of all maps; NaN for a class that no asked map has."""
    scores = []
    for k in range(len(CLASSES)):
        union = ((found == k) | (asked == k)).sum()
        scores.append(((found == k) & (asked == k)).sum() / union if (asked == k).any() else np.nan)
    return np.array(scores)


def read_maps(folder: Path) -> np.ndarray:
    """(N, H, W) uint8 of the palette .png of a folder, in the order of their names."""
    files = sorted(folder.glob("*.png"))
    if not files:
        raise SystemExit(f"no maps in {folder}; give --maps the folder maps that this program wrote")
    return np.stack([np.asarray(Image.open(file)) for file in files])


def read_colours(path: Path) -> np.ndarray:
    """The colours (K, 3) of a classes.csv."""
    if not path.is_file():
        raise SystemExit(f"{path} is missing; --maps must lie beside the classes.csv that this program wrote")
    with path.open(encoding="utf-8", newline="") as stream:
        return np.array([ImageColor.getrgb(row["colour"]) for row in csv.DictReader(stream)])


def read_samples(path: Path, maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (N, H, W, 3), and their maps (N, H, W): from the first again if there are more pictures."""
    pictures = np.stack(list(read_pictures(path)) or [np.zeros((0, 0, 3), np.uint8)])
    if pictures.shape[1:3] != maps.shape[1:]:
        raise SystemExit(f"{path} holds pictures {pictures.shape[1:3]}; expected the size of the maps {maps.shape[1:]}")
    return pictures, np.stack(list(itertools.islice(itertools.cycle(maps), len(pictures))))


def report(score: Path | None, real: Path | None, folder: Path, reference: Path) -> None:
    """Prints the macro mIoU of samples, of real pictures (the ceiling), and of both with maps not theirs (the floor)."""
    colours, maps = read_colours(folder.parent / "classes.csv"), read_maps(folder)
    known, known_maps = read_samples(reference / "images", read_maps(reference / "maps"))
    counts = count_colours(known, known_maps)
    print("macro mIoU by        mean colour  colour counts")
    for name, path in (("samples", score), ("real pictures", real)):
        if path:
            pictures, asked = read_samples(path, maps)
            for kind, wanted in (("", asked), (", other maps", np.roll(asked, len(maps) // 2, 0))):
                found = (by_mean(pictures, colours), by_counts(pictures, wanted, counts))
                scores = [ious(one, wanted) for one in found]
                print(f"{name + kind:24} {np.nanmean(scores[0]):7.3f}  {np.nanmean(scores[1]):13.3f}")
                if not kind:
                    _print_classes(scores, asked)


def _print_classes(scores: list[np.ndarray], asked: np.ndarray) -> None:
    for k, name in enumerate(CLASSES):
        share = 100 * (asked == k).mean()
        print(f"  {name:22} {scores[0][k]:7.3f}  {scores[1][k]:13.3f}   {share:6.2f} % of pixels")


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="?", type=Path, help="the folder node_modules that npm made")
    parser.add_argument(
        "out", nargs="?", type=Path, help="the folder to write; the test part goes to OUT-test beside it"
    )
    parser.add_argument("--size", type=int, default=32, help="pixels (default 32)")
    parser.add_argument("--test-share", type=float, default=0.1, help="of the groups (default 0.1)")
    parser.add_argument("--score", type=Path, metavar="SAMPLES", help="a .npy, a .npz or a folder of .png")
    parser.add_argument("--maps", type=Path, help="the folder of the maps that were asked for")
    parser.add_argument("--real", type=Path, help="the folder of the maps' real pictures")
    parser.add_argument("--reference", type=Path, help="the training part (default: beside --maps, without -test)")
    options = parser.parse_args()
    if options.maps and (options.score or options.real):
        folder = options.maps.resolve()
        beside = folder.parent.with_name(folder.parent.name.removesuffix("-test"))
        report(options.score, options.real, folder, options.reference or beside)
    elif options.out:
        new_folder(options.out)
        write(read_drawings(options.modules, options.size), options.out, options.test_share)
    else:
        parser.error("give NODE_MODULES and OUT, or --maps with --score, --real or both")


if __name__ == "__main__":
    main()

"""Two coloured shapes and a caption that says which, where: a data set to make, and a judge of pictures made from captions.

python shapes.py OUT -n 12000 --language en --seed 0        pictures, metadata.csv and held-out-captions.txt
python shapes.py --judge SAMPLES.npy --captions FILE        the share of pictures that show their caption
python shapes.py --check                                    how far the judge can be trusted
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

SIZE = 32
COLOURS = {
    "red": (220, 40, 40),
    "green": (30, 170, 50),
    "blue": (40, 80, 220),
    "yellow": (230, 180, 0),
    "black": (20, 20, 20),
    "purple": (150, 50, 190),
}
SHAPES = ("circle", "square", "triangle", "cross")
RELATIONS = {"left": "left of", "right": "right of", "above": "above", "below": "below"}
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
CHINESE = dict(zip(COLOURS, ("红色", "绿色", "蓝色", "黄色", "黑色", "紫色"), strict=True))
CHINESE |= dict(zip(SHAPES, ("圆形", "方块", "三角形", "十字"), strict=True))
CHINESE |= {"left": "左边", "right": "右边", "above": "上面", "below": "下面"}
WHITE = 255.0
HELD_OUT_PERCENT = 15
BLEND = 0.5  # pixels of at least half an object's colour are its core
SMALLEST = 10  # pixels at 32x32: less is a speck, not an object (the smallest real object has 33)
LIKENESS = 0.7  # overlap with the best template below which a shape is none of the four


@dataclass(frozen=True)
class Thing:
    """An object by its colour and its shape."""

    colour: str
    shape: str


@dataclass(frozen=True)
class Scene:
    """`first` lies to the `relation` of `second`: ("left": first left of second)."""

    first: Thing
    relation: str
    second: Thing

    def canonical(self) -> Scene:
        """The same picture told with left or above."""
        if self.relation in ("left", "above"):
            return self
        return Scene(self.second, OPPOSITE[self.relation], self.first)

    def held_out(self) -> bool:
        """Whether training must not see it, however told: 15 in 100, by the hash of the canonical caption."""
        digest = hashlib.sha256(caption(self.canonical()).encode()).digest()
        return int.from_bytes(digest[:8], "big") % 100 < HELD_OUT_PERCENT


@dataclass(frozen=True)
class Found:
    """An object of a picture: shape None if it is like none; centre in pixels from the top left corner; likeness in [0, 1]."""

    colour: str
    shape: str | None
    x: float
    y: float
    likeness: float


# --- captions ---------------------------------------------------------------------------------------------------------------


def all_scenes() -> list[Scene]:
    """All 2208 in a fixed order: 24 * 23 pairs of things that differ in colour or shape, in 4 relations."""
    things = [Thing(colour, shape) for colour in COLOURS for shape in SHAPES]
    return [Scene(a, relation, b) for a, b in itertools.permutations(things, 2) for relation in RELATIONS]


def caption(scene: Scene, language: str = "en") -> str:
    """A sentence: "a red circle left of a blue square", or in Chinese (zh) "红色圆形在蓝色方块的左边"."""
    a, b = scene.first, scene.second
    if language == "en":
        return f"a {a.colour} {a.shape} {RELATIONS[scene.relation]} a {b.colour} {b.shape}"
    if language == "zh":
        first, second = (CHINESE[thing.colour] + CHINESE[thing.shape] for thing in (a, b))
        return f"{first}在{second}的{CHINESE[scene.relation]}"
    raise ValueError(f"language {language!r}; expected en or zh")


def parse(text: str) -> Scene:
    """The scene of a caption in either language. Raises ValueError for any other text."""
    for names, pattern in ((_english(), "a {c} {s} {r} a {c} {s}"), (_chinese(), "{c}{s}在{c}{s}的{r}")):
        parts = {key: f"({'|'.join(words)})" for key, words in names.items()}
        match = re.fullmatch(pattern.format(**parts), text.strip())
        if match:
            back = {word: name for words in names.values() for word, name in words.items()}
            return _scene([back[word] for word in match.groups()])
    raise ValueError(f'cannot read the caption {text!r}; expected one like "{caption(all_scenes()[4])}"')


def _english() -> dict[str, dict[str, str]]:
    return {"c": {c: c for c in COLOURS}, "s": {s: s for s in SHAPES}, "r": {v: k for k, v in RELATIONS.items()}}


def _chinese() -> dict[str, dict[str, str]]:
    return {key: {CHINESE[name]: name for name in words.values()} for key, words in _english().items()}


def _scene(words: list[str]) -> Scene:
    """From colour, shape, colour, shape in their order and the relation anywhere among them."""
    relation = next(word for word in words if word in RELATIONS)
    a, b, c, d = (word for word in words if word not in RELATIONS)
    return Scene(Thing(a, b), relation, Thing(c, d))


# --- drawing ----------------------------------------------------------------------------------------------------------------


def inside(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Whether points (x right, y down) lie in the shape of radius 1 with its centre of mass at 0."""
    match shape:
        case "circle":
            return x**2 + y**2 <= 1
        case "square":
            return np.maximum(abs(x), abs(y)) <= 0.9
        case "triangle":
            return (y <= 0.6) & (abs(x) <= 1.05 * (y + 1.2) / 1.8)
        case "cross":
            return (np.minimum(abs(x), abs(y)) <= 0.36) & (np.maximum(abs(x), abs(y)) <= 1.05)
    raise ValueError(f"shape {shape!r}; expected one of {', '.join(SHAPES)}")


AREA = {"circle": np.pi, "square": 1.8**2, "triangle": 1.05 * 1.8, "cross": 4 * 1.05 * 0.72 - 0.72**2}
"""Of the shapes with radius 1."""
REACH = {"circle": (1.0, 1.0), "square": (0.9, 0.9), "triangle": (1.2, 0.6), "cross": (1.05, 1.05)}
"""How far they go up and down from their centre; to the sides at most 1.05."""


def coverage(shape: str, x: float, y: float, radius: float, size: tuple[int, int], fine: int = 8) -> np.ndarray:
    """The part of each pixel that a shape covers: (H, W) in [0, 1], from fine * fine points a pixel."""
    rows, columns = ((np.arange(n * fine) + 0.5) / fine for n in size)
    points = inside(shape, (columns[None] - x) / radius, (rows[:, None] - y) / radius)
    return points.reshape(size[0], fine, size[1], fine).mean((1, 3))


def draw(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """A picture (32, 32, 3) uint8 of the scene: white ground, places and radii (4 to 6 pixels) at random."""
    told = scene.canonical()
    radii = rng.uniform(4, 6, 2)
    places = _beside(radii, rng) if told.relation == "left" else _stacked((told.first, told.second), radii, rng)
    picture = np.full((SIZE, SIZE, 3), WHITE)
    for thing, (x, y), radius in zip((told.first, told.second), places, radii, strict=True):
        part = coverage(thing.shape, x, y, radius, (SIZE, SIZE))[..., None]
        picture = (1 - part) * picture + part * np.array(COLOURS[thing.colour], float)
    return np.rint(picture).astype(np.uint8)


def _beside(radii: np.ndarray, rng: np.random.Generator) -> list[tuple[float, float]]:
    """Centres (x, y) in the left and in the right half, a pixel from its borders, at about the same height."""
    edges = 1.05 * radii
    height = rng.uniform(11, SIZE - 11)
    xs = [rng.uniform(1 + edges[0], 15 - edges[0]), rng.uniform(17 + edges[1], 31 - edges[1])]
    return [(x, height + rng.uniform(-2.5, 2.5)) for x in xs]


def _stacked(things: tuple[Thing, Thing], radii: np.ndarray, rng: np.random.Generator) -> list[tuple[float, float]]:
    """Centres (x, y) in the upper and in the lower half, a pixel from its borders, at about the same place across."""
    across, places = rng.uniform(11, SIZE - 11), []
    for thing, radius, top in zip(things, radii, (1, 17), strict=True):
        up, down = (radius * reach for reach in REACH[thing.shape])
        places.append((across + rng.uniform(-2.5, 2.5), rng.uniform(top + up, top + 14 - down)))
    return places


# --- the judge --------------------------------------------------------------------------------------------------------------


def unmix(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The palette colour and its part of each pixel, for pixels that are a mix of white and one colour.

    p = w + a (c - w): for each colour c the a in [0, 1] of least |p - w - a (c - w)|, then the c of least residual.
    Returns indices (H, W) and parts a (number of colours, H, W).
    """
    away = np.array(list(COLOURS.values()), float) - WHITE
    pixels = picture.astype(float) - WHITE
    parts = np.clip(np.einsum("hwk,ck->chw", pixels, away) / (away**2).sum(1)[:, None, None], 0, 1)
    residuals = ((pixels - parts[..., None] * away[:, None, None]) ** 2).sum(-1)
    return residuals.argmin(0), parts


def components(labels: np.ndarray) -> list[np.ndarray]:
    """Masks (H, W) of the connected pixels (corners count) of equal label; -1 is the ground."""
    left = {(int(y), int(x)) for y, x in np.argwhere(labels >= 0)}
    found = []
    while left:
        pixels = _grown(left.pop(), left, labels)
        mask = np.zeros(labels.shape, bool)
        mask[tuple(np.array(pixels).T)] = True
        found.append(mask)
    return sorted(found, key=lambda mask: int(mask.argmax()))


def _grown(seed: tuple[int, int], left: set[tuple[int, int]], labels: np.ndarray) -> list[tuple[int, int]]:
    """The pixels connected to the seed, taken out of `left`."""
    pixels, todo = [seed], [seed]
    while todo:
        y, x = todo.pop()
        around = [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        new = [p for p in around if p in left and labels[p] == labels[y, x]]
        left.difference_update(new)
        pixels += new
        todo += new
    return pixels


def grown_mask(mask: np.ndarray) -> np.ndarray:
    """The mask and its eight neighbours."""
    wide, (height, width) = np.pad(mask, 1), mask.shape
    return np.any([wide[y : y + height, x : x + width] for y in range(3) for x in range(3)], axis=0)


def fit_shape(part: np.ndarray) -> tuple[str | None, float, float, float]:
    """(shape, x, y, likeness) of coverage (H, W): the template of its mass and centre with the largest sum min / sum max."""
    mass = part.sum()
    y, x = ((part.sum(axis) * (np.arange(part.shape[1 - axis]) + 0.5)).sum() / mass for axis in (1, 0))
    likeness = {}
    for shape in SHAPES:
        template = coverage(shape, x, y, np.sqrt(mass / AREA[shape]), part.shape, fine=4)
        likeness[shape] = float(np.minimum(part, template).sum() / np.maximum(part, template).sum())
    best = max(likeness, key=likeness.__getitem__)
    return best if likeness[best] >= LIKENESS else None, float(x), float(y), likeness[best]


def judge(picture: np.ndarray) -> list[Found]:
    """The objects of a picture (H, W, 3) uint8 on white, from the top down.

    An object is a set of connected pixels that are at least half of one palette colour. Its shape comes from its soft
    coverage, one pixel beyond that core: so it bears antialiasing, some blur and some noise.
    """
    index, parts = unmix(picture)
    core = np.take_along_axis(parts, index[None], 0)[0] >= BLEND
    masks = components(np.where(core, index, -1))
    found = []
    for mask in (m for m in masks if m.sum() >= SMALLEST * core.size / SIZE**2):
        colour = int(index[mask][0])
        near = grown_mask(mask) & (mask | ~core)
        found.append(Found(list(COLOURS)[colour], *fit_shape(parts[colour] * near)))
    return found


def related(a: Found, b: Found, relation: str) -> bool:
    """Whether a lies to the `relation` of b: by more than it is off to the side."""
    x, y = b.x - a.x, b.y - a.y
    along, across = {"left": (x, y), "right": (-x, y), "above": (y, x), "below": (-y, x)}[relation]
    return along > abs(across)


ASPECTS = ("two objects", "colours", "shapes", "objects", "relation", "all")


def verdict(picture: np.ndarray, text: str) -> dict[str, bool]:
    """What of the caption a picture shows, by aspect.

    two objects: no more, no less. colours, shapes: those asked, each as often. objects: each colour with its shape.
    relation: of the two objects, told apart by what they have of the caption. all: objects and relation.
    """
    scene, found = parse(text), judge(picture)
    asked = (scene.first, scene.second)
    right = {
        "two objects": len(found) == 2,
        "colours": Counter(f.colour for f in found) == Counter(t.colour for t in asked),
        "shapes": Counter(f.shape for f in found) == Counter(t.shape for t in asked),
        "objects": Counter(Thing(f.colour, str(f.shape)) for f in found) == Counter(asked),
        "relation": len(found) == 2 and _relation_right(found, scene),
    }
    return right | {"all": right["objects"] and right["relation"]}


def _relation_right(found: list[Found], scene: Scene) -> bool:
    """For the assignment of the two objects that has most colours and shapes right; for either if both have as many."""
    orders = [tuple(found), tuple(reversed(found))]
    same = [_agreement(a, scene.first) + _agreement(b, scene.second) for a, b in orders]
    return any(related(a, b, scene.relation) for (a, b), score in zip(orders, same, strict=True) if score == max(same))


def _agreement(found: Found, asked: Thing) -> int:
    return (found.colour == asked.colour) + (found.shape == asked.shape)


def shows(picture: np.ndarray, text: str) -> bool:
    """Whether a picture (H, W, 3) uint8 shows exactly what its caption asks: two objects, their colours, shapes and relation."""
    return verdict(picture, text)["all"]


def altered(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene with one attribute changed: a colour, a shape or the relation."""
    changes = [replace(scene, relation=relation) for relation in RELATIONS]
    for side in ("first", "second"):
        thing = getattr(scene, side)
        changes += [replace(scene, **{side: replace(thing, colour=colour)}) for colour in COLOURS]
        changes += [replace(scene, **{side: replace(thing, shape=shape)}) for shape in SHAPES]
    changes = [other for other in changes if other != scene and other.first != other.second]
    return changes[rng.integers(len(changes))]


def worn(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A picture like an imperfect model's: blurred with a radius of 0.6 pixels, then noise of standard deviation 12."""
    soft = np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(0.6)), float)
    return np.rint(np.clip(soft + rng.normal(0, 12, soft.shape), 0, 255)).astype(np.uint8)


# --- the command line -------------------------------------------------------------------------------------------------------


def write(folder: Path, count: int, language: str, seed: int, held_out: int) -> None:
    """000000.png ... and metadata.csv (file_name, text) of scenes not held out; held-out-captions.txt, a caption a line."""
    rng, scenes = np.random.default_rng(seed), all_scenes()
    seen = [scene for scene in scenes if not scene.held_out()]
    unseen = [scene for scene in scenes if scene.held_out()]
    folder.mkdir(parents=True, exist_ok=True)
    rows = [_write_one(folder, i, seen[rng.integers(len(seen))], language, rng) for i in range(count)]
    with (folder / "metadata.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("file_name", "text"), *rows])
    chosen = [unseen[i] for i in np.random.default_rng([seed, 1]).permutation(len(unseen))[:held_out]]
    lines = "".join(f"{caption(scene, language)}\n" for scene in chosen)
    (folder / "held-out-captions.txt").write_text(lines, encoding="utf-8")
    print(f"{count} pictures of {len(seen)} captions in {folder}; {len(chosen)} of {len(unseen)} held-out captions")


def _write_one(folder: Path, i: int, scene: Scene, language: str, rng: np.random.Generator) -> tuple[str, str]:
    name = f"{i:06}.png"
    Image.fromarray(draw(scene, rng)).save(folder / name)
    return name, caption(scene, language)


def read_pictures(path: Path) -> Iterator[np.ndarray]:
    """(H, W, 3) uint8 each, of a .npy (N, H, W, 3), a .npz with `images`, or a folder's .png in the order of their names."""
    if path.is_dir():
        files = sorted(
            file for file in path.glob("*.png") if file.name != "grid.png"
        )  # the overview of `alphabar sample`
        yield from (np.asarray(Image.open(file).convert("RGB")) for file in files)
        return
    if not path.is_file():
        raise SystemExit(f"no pictures at {path}; give a folder of .png, a .npy or a .npz")
    array = np.load(path)
    array = array["images"] if path.suffix == ".npz" else array
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] != 3:
        raise SystemExit(f"{path} holds {array.dtype} {array.shape}; expected uint8 (N, H, W, 3)")
    yield from array


def read_captions(path: Path | None, pictures: Path) -> list[str]:
    """A caption a line, or the column text of a metadata.csv (by default the pictures' own), in the order of file_name."""
    path = path or pictures / "metadata.csv"
    if not path.is_file():
        raise SystemExit(f"no captions at {path}; give --captions FILE with a caption a line, or a metadata.csv")
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix == ".csv":
        return [row["text"] for row in sorted(csv.DictReader(text.splitlines()), key=lambda row: row["file_name"])]
    return [line for line in text.splitlines() if line.strip()]


def report(pictures: Path, captions: Path | None) -> None:
    """Prints the share of pictures that show their caption, and of each aspect. Captions repeat in turn."""
    lines = read_captions(captions, pictures)
    verdicts = [verdict(p, text) for p, text in zip(read_pictures(pictures), itertools.cycle(lines), strict=False)]
    if not verdicts:
        raise SystemExit(f"no pictures or no captions: {pictures}, {captions}")
    print(f"{len(verdicts)} pictures, {min(len(lines), len(verdicts))} captions")
    for aspect in ASPECTS:
        print(f"{aspect:12} {100 * np.mean([v[aspect] for v in verdicts]):6.2f} %")


def check(seed: int, count: int = 1000) -> None:
    """Prints how often the judge agrees with the right caption and with one changed in one attribute. Exits 1 if it is not good."""
    rng, scenes = np.random.default_rng(seed), all_scenes()
    used = {thing for s in scenes if not s.held_out() for thing in (s.first, s.second)}
    assert len(used) == len(COLOURS) * len(SHAPES), "a thing is in no training caption"
    assert all(parse(caption(s, language)) == s for s in scenes for language in ("en", "zh")), (
        "a caption is not read back"
    )
    passed = []
    for name, wear, least in (("drawn", False, 0.99), ("blurred and noisy", True, 0.97)):
        right, wrong = _agreements(rng, scenes, count, wear)
        passed += [right >= least, wrong <= 0.01]
        print(
            f"{name:18} right caption {100 * right:6.2f} % (>= {100 * least:.0f})   wrong {100 * wrong:5.2f} % (<= 1)"
        )
    raise SystemExit(0 if all(passed) else 1)


def _agreements(rng: np.random.Generator, scenes: list[Scene], count: int, wear: bool) -> tuple[float, float]:
    """The shares of pictures that the judge says to show their caption, and an altered one."""
    right = wrong = 0
    for _ in range(count):
        scene = scenes[rng.integers(len(scenes))]
        picture = worn(draw(scene, rng), rng) if wear else draw(scene, rng)
        right += shows(picture, caption(scene))
        wrong += shows(picture, caption(altered(scene, rng), "zh"))
    return right / count, wrong / count


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?", type=Path, help="the folder to write")
    parser.add_argument("-n", "--count", type=int, default=12000, help="pictures (default 12000)")
    parser.add_argument("--language", choices=("en", "zh"), default="en")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--held-out", type=int, default=400, help="at most so many held-out captions (default 400)")
    parser.add_argument("--judge", type=Path, metavar="PICTURES", help="a folder of .png, a .npy or a .npz to judge")
    parser.add_argument("--captions", type=Path, help="a caption a line, or a metadata.csv")
    parser.add_argument("--check", action="store_true", help="validate the judge on drawn pictures")
    options = parser.parse_args()
    if options.check:
        check(options.seed)
    elif options.judge:
        try:
            report(options.judge, options.captions)
        except ValueError as error:
            parser.error(str(error))
    elif options.out:
        if options.out.exists():
            parser.error(f"{options.out} is there already; remove it or give a new folder")
        write(options.out, options.count, options.language, options.seed, options.held_out)
    else:
        parser.error("give a folder to write, --judge PICTURES or --check")


if __name__ == "__main__":
    main()

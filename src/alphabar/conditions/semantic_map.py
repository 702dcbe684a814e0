"""Semantic maps: the class of each pixel, one-hot, into spatially adaptive normalisation (Park et al. 2019, "SPADE"; Wang et al. 2022,
"Semantic Image Synthesis via Diffusion Models"), or, as the simpler option, beside the input channels."""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageColor, ImageOps
from torch import Tensor

from ..data.decode import naming, opened
from ..data.pairs import Locate, aspects_differ, check_same_aspect, find_pairs, has_pair
from ..data.readers import Offer, Reader
from ..data.sources import Catalogue, PictureFile
from ..errors import ConfigurationError, DataError, UnusableData
from ..networks.cond import Cond, Doors
from ..settings.conditions import MAP_COLUMN, NOTHING, MapSettings
from .base import Encoder, Sizes, hide

CLASS_FILES = ("classes.csv", "classes.json", "classes.txt")
STRETCHED = {"L;2": 85, "L;4": 17}
PALETTE_MODES = {"P", "L", "1", "I", "I;16"}


class MapReader(Reader):
    """Maps in a column of the metadata, or in a folder beside the pictures'; a file of classes says what their values mean."""

    settings = MapSettings
    pictorial = True
    needs = "a column 'map_file_name' in the metadata, folders images/ and maps/ with the same names, or --maps FOLDER"

    def resolve(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """With the names and colours of a file of classes."""
        if not isinstance(values.get("classes"), str):
            return values
        names, colours = read_class_file(Path(values["classes"]).expanduser())
        return {**values, "classes": names, "colours": values.get("colours") or colours}

    def offer(self, name: str, settings: MapSettings, catalogue: Catalogue) -> Offer | None:
        """Maps by column or folder, read with the classes of a file beside them if there is one."""
        column = settings.column if name == "map" or settings.column != MAP_COLUMN else f"{name}_file_name"
        found = find_pairs(catalogue, column, settings.folder, (name, f"{name}s"))
        if found is None:
            return None
        instances = None
        if settings.instances is not None:
            folder = None if settings.instances in catalogue.columns() else settings.instances
            instances = find_pairs(catalogue, settings.instances, folder, ())
        settings = with_palette(with_class_file(settings, catalogue.folder), catalogue, found[1])
        files = MapFiles(settings)
        edges = instances[1] if instances else None
        return Offer(found[0], lambda file, size: files.read(file, size, found[1], edges), settings, has_pair(found[1]))

    def folders(self, name: str, settings: MapSettings) -> Collection[str]:
        """The usual names, and those that are set."""
        return [name, f"{name}s", *(f for f in (settings.folder, settings.instances) if f)]

    def mirrored_indices(self, settings: MapSettings) -> np.ndarray | None:
        """Left and right change places."""
        indices = np.arange(256, dtype=np.uint8)
        for left, right in settings.swap:
            indices[[left, right]] = right, left
        return indices if settings.swap else None

    def settle(self, settings: MapSettings, values: np.ndarray) -> MapSettings:
        """Without a list of classes, there are as many as the largest index tells. Raises ConfigurationError for a swap of none of them."""
        names = settings.classes
        if not names:
            used = values[..., 0]
            most = int(np.where(used == NOTHING, 0, used).max(initial=0))
            names = [str(i) for i in range(most + 1)]
        strange = sorted({i for pair in settings.swap for i in pair if i >= len(names)})
        if strange:
            raise ConfigurationError(f"conditions.map.swap: there is no class {strange[0]}, only 0..{len(names) - 1}")
        if settings.classes:
            return settings
        return settings.model_copy(update={"classes": names, "colours": settings.colours[: len(names)]})


class MapEncoder(Encoder):
    """Maps (n, H, W, 1) uint8, or (n, H, W, 2) with instance edges 0 or 1 -> one-hot (N, K, H, W) in `modulation` or `concat`.

    The null value is zero: no pixel has a class. It has nothing to learn; the network's blocks do.
    """

    def __init__(self, settings: MapSettings, sizes: Sizes) -> None:
        super().__init__(settings)
        self.settings, self.size = settings, (sizes.shape[1], sizes.shape[2])

    @classmethod
    def doors(cls, settings: MapSettings, shape: Sequence[int]) -> Doors:
        """A channel a class, and one for the edges of instances."""
        if len(shape) != 3:
            raise ConfigurationError(f"a map goes with pictures, the data has shape {tuple(shape)}")
        channels = len(settings.classes) + (settings.instances is not None)
        return Doors(concat=channels) if settings.door == "concat" else Doors(modulation=channels)

    def read(self, inputs: Sequence[Any], notes: list[str]) -> np.ndarray:
        """Paths or arrays of indices (H, W), for a model with instances a pair (map, instance map); resized as in training."""
        files, maps = MapFiles(self.settings), []
        for given in inputs:
            depth = 1 + (self.settings.instances is not None)
            if given is None:
                maps.append(np.full((*self.size, depth), NOTHING if depth == 1 else 0, np.uint8))
                maps[-1][..., 0] = NOTHING
                continue
            values, instance = given if isinstance(given, tuple) else (given, None)
            if instance is not None and depth == 1:
                raise ConfigurationError("this model takes a map alone, not a map with instances")
            if instance is None and depth == 2:
                notes.append("a map without instances has no edges between objects; give --instances too")
            array = files.indices(values)
            if array.shape != self.size:
                notes.append(
                    f"map {_name(values)} is {_by(array.shape)}, resized to {_by(self.size)} (nearest neighbour) as in training"
                )
            layers = [fit_nearest(array, self.size)]
            if instance is not None:
                layers.append(instance_edges(read_instances(instance, array.shape), self.size))
            elif depth == 2:
                layers.append(np.zeros(self.size, np.uint8))
            maps.append(np.stack(layers, axis=-1))
        return np.stack(maps)

    def forward(self, values: np.ndarray | Tensor | None, n: int, drop: Tensor | None = None) -> Cond:
        """values (n, H, W, 1 or 2) uint8, or None for all null."""
        count, edges = len(self.settings.classes), self.settings.instances is not None
        if values is None:
            one_hot = torch.zeros(n, count + edges, *self.size)
        else:
            maps = torch.as_tensor(values)
            # all that is no class becomes one class more, which is then left out
            index = maps[..., 0].long().clamp(max=count)
            one_hot = torch.zeros(n, count + 1, *index.shape[1:]).scatter_(1, index[:, None], 1.0)[:, :count]
            one_hot = torch.cat([one_hot, maps[..., 1:2].permute(0, 3, 1, 2).float()], dim=1) if edges else one_hot
        return Cond(**{self.settings.door: hide(one_hot, drop)})

    def show(self, values: np.ndarray) -> tuple[np.ndarray | None, list[str] | None]:
        """The maps in their colours."""
        return np.asarray(palette(self.settings), np.uint8)[np.asarray(values)[..., 0]], None


class MapFiles:
    """Reads map files into indices, checking each against the classes."""

    def __init__(self, settings: MapSettings) -> None:
        self.settings = settings
        colours = [ImageColor.getrgb(colour)[:3] for colour in settings.colours]
        self.by_colour = {colour: i for i, colour in reversed(list(enumerate(colours)))}  # of two alike, the first

    def read(self, file: PictureFile, size: tuple[int, int], locate: Any, instances: Any) -> np.ndarray:
        """The map of a picture as (height, width, 1 or 2) uint8: indices, and edges between instances."""
        where = locate(file)
        check_same_aspect(file, where)
        indices = self.indices(where)
        layers = [fit_nearest(indices, size)]
        if instances is not None:
            layers.append(instance_edges(read_instances(instances(file), indices.shape), size))
        return np.stack(layers, axis=-1)

    def indices(self, where: Path | str | np.ndarray | Image.Image) -> np.ndarray:
        """The indices (H, W) uint8 of a palette PNG, an index PNG or a picture in the classes' colours; 255 is no class.

        Raises UnusableData for an index or a colour that no class has, naming file and value.
        """
        if isinstance(where, Image.Image):
            stretch = stretch_of(where)
            raw = self._values(ImageOps.exif_transpose(where), Path("image"), stretch)
        elif isinstance(where, np.ndarray):
            raw = where[..., 0] if where.ndim == 3 and where.shape[-1] == 1 else where
            if raw.ndim != 2 or raw.dtype.kind not in "iub":
                raise DataError(f"a map must be whole numbers (H, W), got {raw.dtype} {raw.shape}")
        else:
            raw = self._pixels(Path(where))
        limit, ignore = len(self.settings.classes) or NOTHING, self.settings.ignore
        ignored = raw == ignore if ignore is not None else np.zeros(raw.shape, bool)
        wrong = raw[~ignored & ((raw >= limit) | (raw < 0))]
        if wrong.size:
            known = f"0..{limit - 1}" + (f" and {ignore} (ignored)" if ignore is not None else "")
            raise UnusableData(
                f"map {_name(where)}: index {int(wrong.flat[0])} has no class; known: {known}; mend the map, or give conditions.map.classes"
            )
        return np.where(ignored, NOTHING, raw).astype(np.uint8)

    def _pixels(self, path: Path) -> np.ndarray:
        with naming(f"map {path.name}"), opened(path) as image:
            stretch = stretch_of(image)
            ImageOps.exif_transpose(image, in_place=True)
            return self._values(image, path, stretch)

    def _values(self, image: Image.Image, path: Path, stretch: int = 1) -> np.ndarray:
        if image.mode == "P" and self.by_colour:
            return self._by_palette(np.asarray(image), image, path)
        if image.mode in PALETTE_MODES:
            if image.format == "JPEG":
                raise UnusableData(f"map {path.name}: JPEG changes the values of a map; save it as PNG")
            return np.asarray(image).astype(np.int64) // stretch
        rgb = np.asarray(image.convert("RGB")).astype(np.int64)
        if not self.by_colour:
            raise UnusableData(
                f"map {path.name}: a colour picture, but the colours of the classes are not known; save it as a palette PNG, or give {CLASS_FILES[0]} with index,name,colour"
            )
        codes = rgb @ np.array([65536, 256, 1])
        out = np.full(codes.shape, -1, np.int64)
        for (r, g, b), index in self.by_colour.items():
            out[codes == r * 65536 + g * 256 + b] = index
        if (out < 0).any():
            wrong = int(codes[out < 0].flat[0])
            raise UnusableData(
                f"map {path.name}: colour #{wrong:06x} has no class; known: {', '.join(self.settings.colours)}"
            )
        return out

    def _by_palette(self, raw: np.ndarray, image: Image.Image, path: Path) -> np.ndarray:
        """The indices as they are where the palette agrees with the classes' colours, otherwise those of its colours."""
        colours = {i: tuple(image.getpalette("RGB")[3 * i : 3 * i + 3]) for i in np.unique(raw).tolist()}  # type: ignore[index]
        known = [ImageColor.getrgb(colour)[:3] for colour in self.settings.colours]
        used = {i: c for i, c in colours.items() if i != self.settings.ignore}
        if all(i >= len(known) or len(c) < 3 or c == known[i] for i, c in used.items()):
            return raw.astype(np.int64)
        strange = {i: c for i, c in used.items() if c not in self.by_colour}
        if strange:
            index, colour = next(iter(strange.items()))
            raise UnusableData(
                f"map {path.name}: index {index} has colour #{bytes(colour).hex()}, which no class has; known: {', '.join(self.settings.colours)}"
            )
        table = np.arange(256)
        for i, colour in used.items():
            table[i] = self.by_colour[colour]
        return table[raw]


def _name(where: Any) -> str:
    return where.name if isinstance(where, Path) else Path(where).name if isinstance(where, str) else "array"


def _by(size: Sequence[int]) -> str:
    return f"{size[0]}x{size[1]}"


def stretch_of(image: Image.Image) -> int:
    """By what Pillow multiplies the values of a picture of 2 or 4 bits of grey, not decoded yet, so that they fill 8 bits."""
    tiles = getattr(image, "tile", None)  # how the file's values are unpacked
    how = tiles[0][3] if tiles else ""
    return STRETCHED.get(str(how[0] if isinstance(how, tuple) else how), 1)


def fit_nearest(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W) values scaled to cover `size` by nearest neighbour and cropped in the middle, as pictures are."""
    if array.shape == size:
        return array
    image = Image.fromarray(array.astype(np.int32))
    return np.asarray(ImageOps.fit(image, (size[1], size[0]), Image.Resampling.NEAREST)).astype(array.dtype)


def read_instances(where: Path | str | np.ndarray | Image.Image, map_size: Sequence[int]) -> np.ndarray:
    """The number of the object at each pixel (H, W) int64. Raises DataError, naming the file, where it cannot lie over its map."""
    if isinstance(where, np.ndarray):
        numbers = where.astype(np.int64)
    elif isinstance(where, Image.Image):
        numbers = _numbers(ImageOps.exif_transpose(where))
    else:
        with naming(f"instance map {_name(where)}"), opened(Path(where)) as image:
            numbers = _numbers(ImageOps.exif_transpose(image))
    if numbers.ndim == 3:
        numbers = numbers @ np.array([65536, 256, 1])[: numbers.shape[-1]]
    if aspects_differ(numbers.shape, map_size):
        raise DataError(
            f"instance map {_name(where)} is {_by(numbers.shape)}, its map {_by(map_size)}: another aspect; give one that lies over the map"
        )
    return numbers


def _numbers(image: Image.Image) -> np.ndarray:
    return np.asarray(image if image.mode in PALETTE_MODES else image.convert("RGB")).astype(np.int64)


def instance_edges(numbers: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """1 where a pixel's right, left, upper or lower neighbour belongs to another instance (Wang et al. 2018, pix2pixHD), else 0;
    numbers (H, W) -> (height, width) uint8."""
    ids = fit_nearest(numbers, size)
    edges = np.zeros(size, np.uint8)
    down, right = ids[1:] != ids[:-1], ids[:, 1:] != ids[:, :-1]
    edges[1:] |= down
    edges[:-1] |= down
    edges[:, 1:] |= right
    edges[:, :-1] |= right
    return edges


def with_class_file(settings: MapSettings, folder: Path | None) -> MapSettings:
    """The settings with names and colours from a class file in the data folder, where they are not given."""
    for path in (folder / name for name in CLASS_FILES) if folder is not None and not settings.classes else ():
        if path.is_file():
            names, colours = read_class_file(path)
            return settings.model_copy(update={"classes": names, "colours": settings.colours or colours})
    return settings


def with_palette(settings: MapSettings, catalogue: Catalogue, locate: Locate) -> MapSettings:
    """The settings with the colours of the first map's palette, where it has one and none are given."""
    if settings.colours:
        return settings
    for file in catalogue.files[:16]:
        with contextlib.suppress(DataError):
            where = locate(file)
            if isinstance(where, np.ndarray):
                return settings
            with opened(where) as image:
                if image.mode == "P" and image.palette is not None:
                    values = np.array(image.getpalette("RGB") or [], np.int64).reshape(-1, 3)
                    count = len(settings.classes) or len(values)
                    colours = [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in values[:count]]
                    return settings.model_copy(update={"colours": colours})
    return settings


def read_class_file(path: Path) -> tuple[list[str], list[str]]:
    """Class names and colours (empty if it has none) by index. Raises ConfigurationError if it cannot be read.

    .txt: a name a line. .json: a list of names, or {"name": "#rrggbb"}. .csv: a header with name, and perhaps index and colour.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".json":
            content = json.loads(text)
            return (list(content), list(content.values())) if isinstance(content, dict) else (list(content), [])
        if path.suffix == ".csv":
            rows = list(csv.DictReader(text.splitlines()))
            rows = sorted(rows, key=lambda row: int(row["index"])) if rows and "index" in rows[0] else rows
            if [int(row.get("index", i)) for i, row in enumerate(rows)] != list(range(len(rows))):
                raise ValueError("the indices must be 0, 1, 2, ... without a gap")
            colours = [row.get("colour") or row.get("color") for row in rows]
            if any(colours) and not all(colours):
                raise ValueError("some classes have a colour and some have none")
            return [row["name"] for row in rows], [colour for colour in colours if colour]
        return [line.strip() for line in text.splitlines() if line.strip()], []
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"cannot read class names from {path}: {error}") from None


def palette(settings: MapSettings) -> list[tuple[int, ...]]:
    """256 colours (r, g, b): those of the classes, or well separated hues; white for no class."""
    own: list[tuple[int, ...]] = [ImageColor.getrgb(colour)[:3] for colour in settings.colours]
    hues = [ImageColor.getrgb(f"hsl({i * 137.5 % 360:.0f}, 65%, {40 + 20 * (i % 3)}%)")[:3] for i in range(256)]
    colours = [*own, *hues[len(own) :]]
    colours[NOTHING] = (255, 255, 255)
    return colours

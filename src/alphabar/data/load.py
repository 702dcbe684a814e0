"""From a source to a training set, a held-out set and a report of what was found."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import shutil
import warnings
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..errors import ConfigurationError, DataError, StorageError, UnusableData, nearest
from ..machine import available_memory
from ..settings.conditions import check_colour
from ..settings.data import DataSettings
from .builtin_sets import BUILTIN_SETS
from .conditioned import (
    declared_folders,
    find_offers,
    never_mirrored,
    pair_folders,
    pictorial_names,
    settle,
    stack_values,
    swapped_indices,
)
from .decode import Header, fit, read_header, read_picture
from .found import DataReport, LoadedData, Source
from .near_duplicates import near_duplicates
from .pictures import Numbered, PictureSet, Rows, chosen_names, compact
from .readers import Conditions, Offer, Readers
from .sources import PICTURES_FOLDER, Catalogue, PictureFile, items_of, list_pictures, read_array, read_metadata
from .split import choose_held_out, read_labels, resolve_class_from, say_unused_classes

LARGEST_OWN_SIZE = 64
DEFAULT_SIZE = 32
AHEAD = 4  # pictures for each worker that are decoded before they are taken

T = TypeVar("T")
R = TypeVar("R")

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many are done, and of how many."""


def load_data(
    settings: DataSettings,
    cache: Path | None = None,
    progress: Progress | None = None,
    conditions: Conditions | None = None,
    readers: Readers | None = None,
) -> LoadedData:
    """Read, decode and split the data that the settings name, with the values of its conditions.

    conditions: settings by name of those that are set; data.conditions says which are used. readers: of the kinds of conditions that
    may be read; none but classes by default. Decoded pictures stay in memory if they fit (`memory_gb`), otherwise in the memory-mapped file `cache`.
    Raises DataError for data that cannot be used, ConfigurationError for a source or a column that does not exist.
    """
    report = DataReport(settings.source)
    progress = progress or (lambda what, done, total: None)
    set_, readers = dict(conditions or {}), readers or Readers()
    source = _read_source(settings, set_, report, cache, progress, readers)
    class_from = resolve_class_from(settings, source)
    labels, classes = read_labels(class_from, source)
    say_unused_classes(settings, source, report)
    pairs = near_duplicates(source.pictures)
    held_out = choose_held_out(settings, source, pairs)
    everything = PictureSet(
        source.pictures,
        labels,
        classes,
        source.names,
        source.values,
        swapped_indices(source.conditions, readers),
        pictorial=pictorial_names(source.conditions, readers),
    )
    if settings.flip_except:
        everything = replace(everything, fixed=never_mirrored(settings.flip_except, everything))
    report.count, report.shape = len(everything), everything.shape
    report.near_duplicates = [(source.names[i], source.names[j]) for i, j in pairs]
    report.held_out = held_out.nonzero()[0].tolist()
    report.fingerprint = hashlib.sha256(everything.fingerprint().encode() + held_out.tobytes()).hexdigest()
    found = source.conditions
    if labels is not None:
        report.classes = {name: int((labels == i).sum()) for i, name in enumerate(classes)}
        found = {"class": {**set_.get("class", {}), "classes": classes}, **found}
        found = {name: found[name] for name in settings.conditions or found}
    channels, height, width = everything.shape
    resolved = settings.model_copy(
        update={"size": [height, width], "channels": channels, "class_from": class_from, "conditions": list(found)}
    )
    return LoadedData(subset(everything, ~held_out), subset(everything, held_out), report, resolved, found)


def subset(data: PictureSet, mask: np.ndarray) -> PictureSet:
    """The pictures that mask (N,) bool marks; of a memory-mapped array nothing is read."""
    indices = compact(mask.nonzero()[0], len(mask))
    pictures = Rows(data.pictures, indices) if isinstance(data.pictures, np.memmap) else data.pictures[indices]
    labels = None if data.labels is None else data.labels[indices]
    return replace(
        data,
        pictures=pictures,
        labels=labels,
        names=chosen_names(data.names, indices),
        values={
            name: Rows(values, indices) if isinstance(values, np.memmap) else values[indices]
            for name, values in data.values.items()
        },
        fixed=None if data.fixed is None else data.fixed[indices],
    )


def _read_source(
    settings: DataSettings,
    set_: Conditions,
    report: DataReport,
    cache: Path | None,
    progress: Progress,
    readers: Readers,
) -> Source:
    if settings.source in BUILTIN_SETS:
        pictures, labels, classes = BUILTIN_SETS[settings.source](settings.path)
        return _from_array(settings, set_, report, pictures, labels, classes, {}, readers)
    path = Path(settings.source).expanduser()
    if path.is_file() and path.suffix.lower() in (".npy", ".npz"):
        own, own_labels, others = read_array(path)
        return _from_array(settings, set_, report, own, own_labels, None, others, readers)
    if path.is_dir():
        check_colour(settings.background, "data.background")
        with warnings.catch_warnings():  # what matters is in the report; the rest is about odd tags
            warnings.simplefilter("ignore")
            return _from_folder(settings, set_, report, path, cache, progress, readers)
    what = "is not a folder, .npy or .npz file" if path.exists() else "does not exist"
    raise DataError(
        f"data {settings.source!r} {what}; give a folder of pictures, an array file, or a built-in set ({nearest(settings.source, BUILTIN_SETS)})"
    )


def _from_array(
    settings: DataSettings,
    set_: Conditions,
    report: DataReport,
    pictures: np.ndarray,
    labels: np.ndarray | None,
    classes: list[str] | None,
    others: Mapping[str, np.ndarray],
    readers: Readers,
) -> Source:
    if len(pictures) == 0:
        raise DataError(f"{settings.source} holds no pictures")
    height, width, channels = pictures.shape[1:]
    report.sizes, report.modes = f"{height}x{width}", {f"array of {channels} channels": len(pictures)}
    if settings.channels not in (None, channels):
        raise ConfigurationError(
            f"{settings.source} has {channels} channels, but data.channels = {settings.channels}; leave it out"
        )
    if settings.size is not None and settings.size != [height, width]:
        pictures = np.stack([_resized(picture, (settings.size[0], settings.size[1])) for picture in pictures])
    items = items_of(others, len(pictures), (height, width))
    apart = [f"{key} ({len(a)} values for {len(items)} pictures)" for key, a in others.items() if len(a) != len(items)]
    report.unused += apart
    offers = find_offers(settings, set_, Catalogue(None, items, len(others) > len(apart)), report, readers)
    size = (pictures.shape[1], pictures.shape[2])
    values = {
        name: stack_values([_read_named(offer, item, size, settings.source) for item in items])
        for name, offer in offers.items()
    }
    names = Numbered(len(pictures))
    return Source(
        pictures, names, labels, classes, values=values, conditions=settle(set_, settings, offers, values, readers)
    )


def _read_named(offer: Offer, item: PictureFile, size: tuple[int, int], source: str) -> Any:
    try:
        return offer.read(item, size)
    except DataError as error:  # an array has no picture that could be left out
        raise type(error)(f"{source}, picture {item.name}: {error}") from None


def _resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    from PIL import Image

    return fit(Image.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else np.ascontiguousarray(picture)), size)


def _from_folder(
    settings: DataSettings,
    set_: Conditions,
    report: DataReport,
    folder: Path,
    cache: Path | None,
    progress: Progress,
    readers: Readers,
) -> Source:
    pairs, declared = pair_folders(set_, folder, settings.class_from, readers), declared_folders(set_, folder, readers)
    found, report.other_files = list_pictures(folder, pairs)
    catalogue = Catalogue(folder, found, read_metadata(folder) is not None)
    offers = find_offers(settings, set_, catalogue, report, readers)
    report.unused += [f"folder {path.name} (names as in {PICTURES_FOLDER})" for path in pairs if path not in declared]
    headers: list[tuple[PictureFile, Header]] = []
    for i, picture in enumerate(found):
        progress("reading headers", i + 1, len(found))
        try:
            headers.append((picture, read_header(picture.path)))
        except DataError as error:
            report.skipped.append((picture.name, str(error)))
    size = settings.size or _common_size([h for _, h in headers])
    channels = settings.channels or _common_channels([h for _, h in headers])
    read = _reader(settings, (size[0], size[1]), channels, offers)
    pictures, values, kept = _decode(settings, report, [p for p, _ in headers], read, cache, progress)
    first = f"; the first, {', '.join(report.skipped[0])}" if report.skipped else ""
    if settings.strict and report.skipped:
        raise DataError(
            f"{len(report.skipped)} of {len(found)} pictures cannot be used{first}; mend them or leave out --strict"
        )
    if not kept:
        raise DataError(f"none of the {len(found)} pictures in {folder} is readable{first}")
    _describe(report, [headers[i][1] for i in kept], (size[0], size[1]))
    report.greyed = sum(not headers[i][1].grey for i in kept) if channels == 1 else 0
    files = [headers[i][0] for i in kept]
    folders = [file.folder for file in files]
    report.folders = len({name for name in folders if name})
    return Source(
        pictures,
        [file.name for file in files],
        rows=[file.row for file in files],
        folders=folders,
        values=values,
        conditions=settle(set_, settings, offers, values, readers),
    )


def _reader(
    settings: DataSettings, size: tuple[int, int], channels: int, offers: Mapping[str, Offer]
) -> Callable[[PictureFile], dict[str, Any]]:
    """Reads a picture ("") and its values by name."""

    def read(file: PictureFile) -> dict[str, Any]:
        picture = read_picture(file.path, size, channels, settings.background)
        return {"": picture} | {name: offer.read(file, size) for name, offer in offers.items()}

    return read


def _common_size(headers: list[Header]) -> list[int]:
    sizes = {(h.height, h.width) for h in headers}
    if len(sizes) == 1 and max(next(iter(sizes))) <= LARGEST_OWN_SIZE:
        return list(next(iter(sizes)))
    return [DEFAULT_SIZE, DEFAULT_SIZE]


def _common_channels(headers: list[Header]) -> int:
    return 1 if headers and all(h.grey for h in headers) else 3


def _decode(
    settings: DataSettings,
    report: DataReport,
    files: list[PictureFile],
    read: Callable[[PictureFile], dict[str, Any]],
    cache: Path | None,
    progress: Progress,
) -> tuple[np.ndarray, dict[str, np.ndarray], list[int]]:
    """The usable pictures as one array, their values by name, and their positions in `files`. The rest goes to the report."""
    columns: dict[str, Any] = {}
    kept: list[int] = []

    def decode(file: PictureFile) -> dict[str, Any] | DataError:
        """A picture with its values, or why there is none."""
        try:
            return read(file)
        except UnusableData:
            raise
        except DataError as error:
            return error

    workers = os.cpu_count() or 1
    with (
        ThreadPoolExecutor(workers) as pool,  # Pillow lets go of the interpreter while it decodes
        contextlib.closing(in_order(pool, decode, files, workers * AHEAD)) as results,
    ):
        for i, result in enumerate(results):
            progress("decoding", i + 1, len(files))
            if isinstance(result, DataError):
                report.skipped.append((files[i].name, str(result)))
                continue
            columns = columns or _columns_for(result, len(files), settings.memory_gb, cache)
            for name, value in result.items():
                columns[name][len(kept)] = value
            kept.append(i)
    values = {name: column[: len(kept)] for name, column in columns.items()}
    pictures = values.pop("", np.empty((0, 1, 1, 1), np.uint8))
    return pictures, {n: v if isinstance(v, np.ndarray) else stack_values(v) for n, v in values.items()}, kept


def in_order(pool: Executor, function: Callable[[T], R], items: Iterable[T], window: int) -> Generator[R, None, None]:
    """function(item) of each item, in order, at most `window` of them at work or waiting to be taken.

    Those that have not begun are cancelled when one raises and when the generator is closed.
    """
    futures: deque[Future[R]] = deque()
    try:
        for item in items:
            if len(futures) == window:
                yield futures.popleft().result()
            futures.append(pool.submit(function, item))
        while futures:
            yield futures.popleft().result()
    finally:
        for future in futures:
            future.cancel()


def _columns_for(first: dict[str, Any], n: int, memory_gb: float | None, cache: Path | None) -> dict[str, Any]:
    """Room for n values like these by name: pictures as one array, anything else as a list."""
    pictures = {k: v for k, v in first.items() if isinstance(v, np.ndarray) and v.dtype == np.uint8}
    arrays = allocate({name: (n, *value.shape) for name, value in pictures.items()}, memory_gb, cache)
    return {name: arrays[name] if name in arrays else [value] * n for name, value in first.items()}


def allocate(
    shapes: Mapping[str, tuple[int, ...]], memory_gb: float | None, cache: Path | None
) -> dict[str, np.ndarray]:
    """uint8 arrays by name: in memory if all fit together, otherwise memory-mapped from NAME.npy beside `cache`, "" from `cache` itself."""
    limit = memory_gb * 1e9 if memory_gb else available_memory() / 4
    needed = sum(map(math.prod, shapes.values()))
    if cache is None or needed <= limit:
        return {name: np.empty(shape, np.uint8) for name, shape in shapes.items()}
    cache.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache.parent).free
    if needed > free:
        raise StorageError(
            f"{cache}: the decoded pictures need {needed / 1e9:.3g} GB, {free / 1e9:.3g} GB are free; make room, or lower data.size"
        )
    return {name: _mapped(shape, cache.with_stem(name or cache.stem)) for name, shape in shapes.items()}


def _mapped(shape: tuple[int, ...], path: Path) -> np.ndarray:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
        stream.truncate(stream.tell() + math.prod(shape))
    temporary.replace(
        path
    )  # a run that still maps an older one keeps it; mapped later, as Windows renames no mapped file
    return np.lib.format.open_memmap(path, mode="r+")


def _describe(report: DataReport, headers: list[Header], size: tuple[int, int]) -> None:
    heights, widths = sorted(h.height for h in headers), sorted(h.width for h in headers)
    middle = len(headers) // 2
    same = heights[0] == heights[-1] and widths[0] == widths[-1]
    report.sizes = f"{heights[0]}x{widths[0]}"
    if not same:
        report.sizes += f" to {heights[-1]}x{widths[-1]}, median {heights[middle]}x{widths[middle]}"
    report.modes = dict(Counter(h.mode for h in headers).most_common())
    report.animated = sum(h.frames > 1 for h in headers)
    report.enlarged = sum(h.height < size[0] or h.width < size[1] for h in headers)

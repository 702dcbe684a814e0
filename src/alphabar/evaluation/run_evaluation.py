"""A whole evaluation: samples of a run, or pictures that are there already, against real ones."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .. import __version__
from ..conditions.kinds import load_with_conditions, readers
from ..data.conditioned import pair_folders
from ..data.decode import read_header
from ..data.load import Progress
from ..data.pictures import PictureSet
from ..data.sources import list_pictures
from ..errors import DataError
from ..generation.images import read_record
from ..generation.pipeline import Asked, Pipeline, StateCallback
from ..randomness import derive_seeds, permutation
from ..runs.checkpoint import Checkpoint
from ..settings.data import DataSettings
from .classifier import picture_keys
from .extractors import Extractor, content_hash, features
from .pictures import RealPictures, has_classes, look_into, real_pictures
from .quality import FEWEST, REAL_AT_MOST, Distances, Memorisation, RealSets, choose_real, class_accuracy


@dataclass(frozen=True)
class Evaluation:
    """What was found. `found` are the samples' distances to the reference, `floor` those of other real pictures.

    accuracy: of classes, of the samples and of the reference. by_steps: distances of samples made in fewer or more steps.
    pictures: what a report shows. record: all that makes the numbers comparable.
    """

    found: Distances
    floor: Distances
    record: dict[str, Any]
    accuracy: dict[str, Any] | None = None
    memorisation: Memorisation | None = None
    by_steps: dict[int, Distances] = field(default_factory=dict)
    pictures: dict[str, np.ndarray] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "samples": asdict(self.found),
            "real": asdict(self.floor),
            "class_accuracy": self.accuracy,
            "memorisation": self.memorisation and asdict(self.memorisation),
            "by_steps": {str(steps): asdict(found) for steps, found in self.by_steps.items()},
            "record": self.record,
        }


@dataclass(frozen=True)
class Judged:
    """Pictures (N, H, W, C) uint8 to be evaluated, their classes if there are some, and how they were made."""

    pictures: np.ndarray
    classes: list[str] | None
    record: dict[str, Any]

    def drawn(self, n: int, seed: int) -> Judged:
        """n of them, drawn by the seed: the first ones of a folder may be those of one class."""
        if len(self.pictures) <= n:
            return self
        chosen = np.sort(permutation(len(self.pictures), seed, "judged")[:n])
        classes = None if self.classes is None else [self.classes[i] for i in chosen]
        return Judged(self.pictures[chosen], classes, self.record)


OnPictures = Callable[[int], None]


def evaluate(
    judged: Judged,
    real: RealSets,
    extractor: Extractor,
    source: str,
    seed: int = 0,
    others: Mapping[int, np.ndarray] | None = None,
    on_pictures: OnPictures | None = None,
) -> Evaluation:
    """Compare pictures with real ones of the same number. others: by number of steps, more samples to compare.

    Raises DataError where there are fewer pictures than real ones, or of another shape.
    """
    told = on_pictures or (lambda n: None)
    n = len(real.reference)
    for pictures in (judged.pictures, *(others or {}).values()):
        check_shape(pictures, real, n)
    judged = judged.drawn(n, seed)
    reference = seen(extractor, real.reference, told)
    floor = seen(extractor, real.floor, told)
    own = features(extractor, judged.pictures, told)
    accuracy = class_accuracy(extractor, own, judged.classes)
    if accuracy is not None and real.reference.labels is not None:
        names = [real.reference.classes[i] for i in real.reference.labels]
        accuracy["real"] = (class_accuracy(extractor, reference, names) or {}).get("share")
    memorisation = remembered(judged.pictures, real)
    return Evaluation(
        Distances.between(own, reference),
        Distances.between(floor, reference),
        judged.record | describe(extractor, real, source, seed),
        accuracy,
        memorisation,
        {steps: Distances.between(features(extractor, p[:n], told), reference) for steps, p in (others or {}).items()},
        shown(judged.pictures, real, memorisation),
    )


def seen(extractor: Extractor, data: PictureSet, told: OnPictures) -> Tensor:
    """The features of real pictures, kept for the next time."""
    return features(extractor, np.asarray(data.pictures[:]), told, keep=True)


def check_shape(pictures: np.ndarray, real: RealSets, n: int) -> None:
    """Raise DataError for too few pictures and for pictures of another shape."""
    expected = real.reference.pictures.shape[1:]
    if pictures.shape[1:] != expected or len(pictures) < n:
        raise DataError(f"there must be {n} pictures of shape {expected}, as the real ones are; got {pictures.shape}")


def remembered(pictures: np.ndarray, real: RealSets) -> Memorisation | None:
    """Copies of training pictures among them, if those are known; of the reference, what was trained on is no measure of it."""
    if real.training is None:
        return None
    reference, training = (np.asarray(data.pictures[:]) for data in (real.reference, real.training))
    held_out = reference[~np.isin(picture_keys(reference), picture_keys(training))]
    return Memorisation.between(pictures, held_out, training, real.mirrored) if len(held_out) >= FEWEST else None


def shown(pictures: np.ndarray, real: RealSets, memorisation: Memorisation | None) -> dict[str, np.ndarray]:
    """Pictures for the report: samples, real ones, and the samples that are nearest to training pictures above those."""
    found = {"samples": pictures[:64], "real": np.asarray(real.reference.pictures[:64])}
    if memorisation is not None and real.training is not None:
        own, training = zip(*memorisation.closest, strict=True)
        found["closest"] = np.concatenate([pictures[list(own)], np.asarray(real.training.pictures[np.array(training)])])
    return found


def describe(extractor: Extractor, real: RealSets, source: str, seed: int) -> dict[str, Any]:
    """All that makes the numbers comparable, besides how the pictures were made."""
    channels, height, width = real.reference.shape
    return {
        "extractor": extractor.name,
        "extractor_hash": extractor.hash,
        "fid": extractor.official,
        "n": len(real.reference),
        "resize": f"{height}x{width}, {channels} channels, as training reads pictures",
        "rounding": "8 bit, to the nearest level",
        "data": source,
        "reference": content_hash(np.asarray(real.reference.pictures[:])),
        "note": real.note,
        "floor": content_hash(np.asarray(real.floor.pictures[:])),
        "evaluation_seed": seed,
        "alphabar": __version__,
    }


# what is evaluated


def real_of_run(
    found: Checkpoint,
    data: str | None,
    split: str | None,
    extractor: Extractor,
    n: int,
    seed: int,
    progress: Progress | None,
) -> tuple[RealSets, str]:
    """The real pictures for a run: of `data`, otherwise what it held out; and of its training pictures, if they can be read."""
    reference = real_pictures(found, data, split, REAL_AT_MOST, seed, progress)
    notes = [told_of(reference)]
    try:
        training = real_pictures(found, None, "training", REAL_AT_MOST, seed, progress)
        learned, mirrored = training.data, bool(found.config.data.flip)
        if len(learned) < training.total:
            notes.append(f"copies are looked for among {len(learned)} of {training.total} training pictures")
    except DataError as error:  # it was trained elsewhere, or on data that have changed
        learned, mirrored = None, False
        notes.append(f"copies are not looked for: {error}")
    sets = choose_real(reference.data, learned, extractor, n, seed, like_reference=True)
    note = "; ".join(filter(None, [*notes, sets.note]))
    return replace(sets, note=note, mirrored=mirrored), reference.source


def told_of(real: RealPictures) -> str:
    """What a reader of the numbers must know of the reference; empty if nothing."""
    told = [f"{real.skipped} unreadable files of {real.source} were skipped"] if real.skipped else []
    if real.greyed:
        told.append(
            f"{real.greyed} pictures of {real.source} are in colour and were read in grey, as the model makes them"
        )
    if shared := sorted(real.data.values):
        told.append(
            f"samples are asked for with the reference's {', '.join(shared)}, which the floor has not: they may lie nearer"
        )
    return "; ".join(told)


@torch.no_grad()
def samples_of(
    pipeline: Pipeline, asked: Asked, seed: int, batch: int | None = None, on_state: StateCallback | None = None
) -> Judged:
    """A sample of each that is asked for (`asked_of`)."""
    parts = list(pipeline.stream(derive_seeds(seed, len(asked)), asked, batch, on_state))
    classes = None
    if "class" in asked.values:
        classes = [pipeline.classes[int(i)] for i in asked.values["class"]]
    record = parts[0].record | {"seed": seed}
    return Judged(np.concatenate([part.pictures for part in parts]), classes, record)


def asked_of(pipeline: Pipeline, reference: PictureSet, seed: int) -> Asked:
    """What the real pictures have of the model's conditions; nothing of it: classes in turn."""
    n = len(reference)
    batch = reference.batch(np.arange(n))
    values = pipeline.denoiser.encoders.with_derived(batch, [(seed, "real", i) for i in range(n)])
    values = {name: np.asarray(values[name]) for name in pipeline.conditions if name in values}
    return Asked(values, [{} for _ in range(n)]) if values else pipeline.ask(n, {})


def pictures_of(path: Path, progress: Progress | None = None) -> Judged:
    """Pictures that are there already: a folder, .npy or .npz; of a folder of `alphabar sample`, its samples. Raises DataError."""
    if path.is_dir() and (made := samples_in(path)) is not None:
        return made
    loaded = load_with_conditions(settings_of(str(path), own_size(path)), None, progress)
    found, skipped = loaded.train, len(loaded.report.skipped)
    classes = None if found.labels is None else [found.classes[i] for i in found.labels]
    record = {"pictures": str(path)} | ({"skipped": skipped} if skipped else {})
    return Judged(np.asarray(found.pictures[:]), classes, record)


def samples_in(folder: Path) -> Judged | None:
    """The samples in a folder that `alphabar sample` wrote, with their classes; None if it holds others. Its grid is not one."""
    files = sorted(folder.glob("*.png"))
    records = [own_record(file) for file in files]
    chosen = [(file, record) for file, record in zip(files, records, strict=True) if "seed" in record]
    if not chosen or len(chosen) < len(files) - 1:
        return None
    pictures = [np.atleast_3d(np.asarray(Image.open(file))) for file, _ in chosen]
    if len({picture.shape for picture in pictures}) > 1:
        raise DataError(f"{folder} holds samples of several sizes; evaluate those of one model at a time")
    classes = [str(record["class"]) for _, record in chosen if "class" in record]
    own = {key: value for key, value in chosen[0][1].items() if key not in ("seed", "class")}
    return Judged(np.stack(pictures), classes if len(classes) == len(chosen) else None, {"pictures": str(folder)} | own)


def own_record(file: Path) -> dict[str, Any]:
    """What alphabar wrote into a picture; empty for a picture that it did not make."""
    try:
        return read_record(file)
    except DataError:
        return {}


def real_like(source: str, like: np.ndarray, progress: Progress | None = None) -> PictureSet:
    """All of a source, read in the size and with the channels of pictures (N, H, W, C) that are there."""
    height, width, channels = like.shape[1:]
    settings = settings_of(source, [height, width]).model_copy(update={"channels": channels})
    return load_with_conditions(settings, None, progress).train


def settings_of(source: str, size: list[int] | None) -> DataSettings:
    """All of a source, with its classes where every picture has one: labels, or sub-folders."""
    settings = DataSettings(source=source, held_out=0.0, conditions=[], class_from="none", size=size)
    catalogue, labelled = look_into(settings, {})
    if not has_classes("auto", catalogue, labelled):
        return settings
    return settings.model_copy(update={"conditions": ["class"], "class_from": "label" if labelled else "folder"})


def own_size(path: Path) -> list[int] | None:
    """[height, width] of the pictures of a folder, where all have the same: training would reduce large ones. None otherwise."""
    if not path.is_dir():
        return None
    sizes = set()
    for file in list_pictures(path, pair_folders({}, path, "none", readers()))[0]:
        with contextlib.suppress(DataError):  # reading them reports it
            header = read_header(file.path)
            sizes.add((header.height, header.width))
    return list(sizes.pop()) if len(sizes) == 1 else None

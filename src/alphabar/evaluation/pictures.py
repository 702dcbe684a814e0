"""The real pictures that a model is measured on, read as its training read them, with the conditions that they have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..conditions.kinds import kind_of, load_with_conditions, read_settings, readers
from ..data.builtin_sets import BUILTIN_SETS
from ..data.conditioned import pair_folders, with_background
from ..data.load import Progress
from ..data.pictures import PictureSet
from ..data.readers import Conditions
from ..data.sources import Catalogue, items_of, list_pictures, read_array, read_metadata
from ..diffusion.denoiser import Denoiser
from ..errors import ConfigurationError, DataError, nearest, unknown
from ..networks.cond import Cond
from ..randomness import permutation
from ..runs.checkpoint import Checkpoint
from ..settings.data import DataSettings

SPLITS = ("held-out", "training", "all")
TEST_PART = "-test"
"""What the name of a built-in set's test part ends in."""


@dataclass(frozen=True)
class RealPictures:
    """n real pictures as training would see them, and which they are.

    indices: the place of each among the `total` that it was drawn from: what is "held-out" from training, or in "training", or "all"
    of the source.
    fingerprint: a hash of the whole set. null: the model's conditions that the pictures have no values of. skipped: the number of
    files that could not be used. greyed: how many of the source are in colour where the model makes grey ones.
    """

    data: PictureSet
    indices: list[int]
    total: int
    source: str
    split: str
    fingerprint: str
    null: list[str] = field(default_factory=list)
    skipped: int = 0
    greyed: int = 0

    def __len__(self) -> int:
        return len(self.indices)

    @torch.no_grad()
    def batch(self, part: slice, denoiser: Denoiser, seed: int) -> tuple[Tensor, Cond, list[int]]:
        """x_0, the encoded conditions and the indices of some of them; what is random in a condition depends on seed and index."""
        device, indices = next(denoiser.parameters()).device, self.indices[part]
        batch = self.data.batch(np.arange(len(self))[part])
        values = denoiser.encoders.with_derived(batch, [(seed, "real", i) for i in indices])
        return batch.x_0.to(device), denoiser.encode(values, len(indices)), indices


def real_pictures(
    found: Checkpoint,
    source: str | None = None,
    split: str | None = None,
    n: int = 64,
    seed: int = 0,
    progress: Progress | None = None,
) -> RealPictures:
    """n pictures, or all if there are fewer, drawn by the seed from `source`: a folder, an array file or a built-in set.

    source=None: what the run was trained on. split=None: of that what was held out from training, of another source all. Conditions
    that the source has no values of are null; classes are matched by name.
    Raises DataError for pictures that do not fit the model, ConfigurationError for a split that there is not.
    """
    if len(found.shape) != 3:
        raise ConfigurationError(
            f"this model makes points of shape {found.shape}; 8-bit pictures cannot be measured by it"
        )
    own = source is None or same_source(source, found.config.data.source)
    split = split or ("held-out" if own else "all")
    check_split(split, own, source)
    settings = data_settings(found, None if own else source, split)
    trained = found.config.condition_values
    conditions = trained if own else offered(settings, trained)
    if "class" not in conditions:
        settings = settings.model_copy(update={"class_from": "none"})
    settings = settings.model_copy(update={"conditions": list(conditions)})
    with TemporaryDirectory(prefix="alphabar-") as folder:  # for what does not fit into memory
        loaded = load_with_conditions(settings, Path(folder) / "pictures.npy", progress, conditions)
        if split != "all" and loaded.report.fingerprint != found.fingerprint:
            raise DataError(
                f"{settings.source} is not what the run was trained on (or its split is another), so what was held out is not known; "
                "name other pictures with --data, or take --split all"
            )
        pool = loaded.held_out if split == "held-out" else loaded.train
        check_pool(pool, found, settings.source)
        chosen = np.sort(permutation(len(pool), seed, "real")[:n])
        data = with_classes(take(pool, chosen), found.config.classes, settings.source)
    report, null = loaded.report, [name for name in found.config.conditions if name not in conditions]
    return RealPictures(
        data,
        chosen.tolist(),
        len(pool),
        settings.source,
        split,
        report.fingerprint,
        null,
        len(report.skipped),
        report.greyed,
    )


def same_source(a: str, b: str) -> bool:
    """Whether two sources are the same built-in set or the same path."""
    return a == b or (
        not {a, b} & set(BUILTIN_SETS) and Path(a).expanduser().resolve() == Path(b).expanduser().resolve()
    )


def check_split(split: str, own: bool, source: str | None) -> None:
    """Raise ConfigurationError for an unknown split, and for held-out pictures of what the run was not trained on."""
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    if split != "all" and not own:
        raise ConfigurationError(
            f"the run was not trained on {source}, so nothing of it is held out; leave --split out to take all of it"
        )


def data_settings(found: Checkpoint, source: str | None, split: str) -> DataSettings:
    """The settings of the run's data, or for the same kind of reading from another source; of "all", nothing is held out."""
    trained, (channels, *size) = found.config.data, found.shape
    changes: dict[str, object] = {}
    if source is None and trained.source not in BUILTIN_SETS and not Path(trained.source).expanduser().exists():
        raise DataError(f"what the run was trained on, {trained.source}, is not there; name other pictures with --data")
    if split == "all":
        changes |= {"held_out": 0.0, "held_out_folder": None, "group": None, "flip_except": []}
    if source is not None:
        same_files = source.removesuffix(TEST_PART) == trained.source.removesuffix(TEST_PART)
        changes |= {"source": source, "path": trained.path if same_files else None, "size": size, "channels": channels}
    return trained.model_copy(update=changes)


def offered(settings: DataSettings, conditions: Conditions) -> dict[str, Mapping[str, Any]]:
    """Those of the conditions that the source has values of, or that are made from the pictures."""
    catalogue, labelled = look_into(settings, conditions)

    def has_values(name: str) -> bool:
        if name == "class":
            return has_classes(settings.class_from, catalogue, labelled)
        reader = kind_of(name, conditions[name]).reader
        chosen = with_background(read_settings(name, conditions[name]), settings)
        return reader.derives(chosen) or reader.offer(name, chosen, catalogue) is not None

    return {name: values for name, values in conditions.items() if has_values(name)}


def look_into(settings: DataSettings, conditions: Conditions) -> tuple[Catalogue, bool]:
    """What is known of a source's pictures before they are decoded, and whether it has labels of its own."""
    path = Path(settings.source).expanduser()
    if path.is_dir() and settings.source not in BUILTIN_SETS:
        files, _ = list_pictures(path, pair_folders(conditions, path, settings.class_from, readers()))
        return Catalogue(path, files, read_metadata(path) is not None), False
    if path.is_file() and settings.source not in BUILTIN_SETS:
        pictures, labels, others = read_array(path)
        items = items_of(others, len(pictures))
        return Catalogue(None, items, any(item.row for item in items[:1])), labels is not None
    return Catalogue(None, []), settings.source in BUILTIN_SETS


def has_classes(class_from: str, catalogue: Catalogue, labelled: bool) -> bool:
    """Whether every picture has a class where the run's came from: labels, folders, a column; "auto" (of a run without files) is
    labels, otherwise folders."""
    if class_from in ("label", "auto") and labelled:
        return True
    by_folder = class_from in ("folder", "auto")
    values = [file.folder if by_folder else file.row.get(class_from) for file in catalogue.files]
    return bool(values) and all(value is not None and value != "" for value in values)


def check_pool(pool: PictureSet, found: Checkpoint, source: str) -> None:
    """Raise DataError where there is nothing to draw from, or pictures of another shape than the model's."""
    if len(pool) == 0:
        raise DataError(
            f"nothing of {source} was held out from training; name other pictures with --data, or take --split all"
        )
    if pool.shape != found.shape:
        raise DataError(
            f"the pictures of {source} have shape {pool.shape}, the model's {found.shape}; give pictures with as many channels"
        )


def take(pool: PictureSet, chosen: np.ndarray) -> PictureSet:
    """The chosen ones, in memory."""
    values = {name: np.asarray(column[chosen]) for name, column in pool.values.items()}
    labels = None if pool.labels is None else pool.labels[chosen]
    names = [pool.names[i] for i in chosen]
    return replace(
        pool, pictures=np.asarray(pool.pictures[chosen]), labels=labels, names=names, values=values, fixed=None
    )


def with_classes(data: PictureSet, classes: list[str], source: str) -> PictureSet:
    """The pictures with their classes numbered as the model numbers them. Raises DataError for a class that it does not know."""
    if data.labels is None:
        return data
    lost = sorted({data.classes[i] for i in data.labels} - set(classes))
    if lost:
        raise DataError(
            f"{source} has the class {lost[0]!r}, which the model was not trained with; {nearest(lost[0], classes)}"
        )
    number = np.array([classes.index(name) if name in classes else -1 for name in data.classes], np.int64)
    return replace(data, labels=number[data.labels], classes=classes)

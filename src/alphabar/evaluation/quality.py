"""How good pictures are: distances to real ones beside the floor that other real ones have, class accuracy, and copies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.pictures import PictureSet
from ..errors import DataError
from ..randomness import permutation
from .classifier import ClassifierExtractor, picture_keys
from .distances import frechet_distance, kernel_distance, nearest_neighbours, overlap
from .extractors import Extractor
from .pictures import take

REAL_AT_MOST = 100_000  # of a set, drawn by the seed: they are held in memory
FEWEST = 8
CLOSEST = 8
COPY = 0.01  # nearer to training than all but this share of held-out pictures are


@dataclass(frozen=True)
class Distances:
    """Of N pictures to N real ones: `kernel_distance` with its standard error, `frechet_distance`, `overlap`."""

    kernel: float
    kernel_error: float
    frechet: float
    precision: float
    recall: float
    density: float
    coverage: float

    @classmethod
    def between(cls, pictures: Tensor, real: Tensor) -> Distances:
        """Of features (N, D) of both."""
        return cls(
            *kernel_distance(pictures, real), frechet_distance(pictures, real), **asdict(overlap(pictures, real))
        )


@dataclass(frozen=True)
class Memorisation:
    """How near samples are to training pictures, against how near other real pictures are to them.

    Distances are root mean squares over pixels in [-1, 1]. copies: the share of samples that are nearer to a training picture
    than 99 of 100 held-out pictures are; expected: that share where nothing is remembered, 0.01 for many held-out pictures and more
    for few. closest: (sample, training picture) with the least distances, as numbers.
    """

    samples: float
    held_out: float
    copies: float
    expected: float
    closest: list[tuple[int, int]]
    training: int

    @classmethod
    def between(
        cls, samples: np.ndarray, held_out: np.ndarray, training: np.ndarray, mirrored: bool = False
    ) -> Memorisation:
        """Of pictures (N, H, W, C) uint8 of each. mirrored: a training picture's mirror image counts as that picture."""
        distance, index = nearest_pictures(samples, training, mirrored)
        others, _ = nearest_pictures(held_out, training, mirrored)
        order, n = distance.argsort()[:CLOSEST], len(held_out)
        return cls(
            float(distance.median()),
            float(others.median()),
            float((distance < others.quantile(COPY)).double().mean()),
            (COPY * (n - 1) + 1) / (n + 1),  # how often one more draw lies below that quantile of n like ones
            [(int(i), int(index[i])) for i in order],
            len(training),
        )


def nearest_pictures(pictures: np.ndarray, training: np.ndarray, mirrored: bool = False) -> tuple[Tensor, Tensor]:
    """Of each picture the distance to the nearest training picture, and which it is: (N,), (N,). mirrored: or to its mirror image."""
    if mirrored:
        ways = [nearest_pictures(pictures, each) for each in (training, training[:, :, ::-1])]
        nearer = ways[1][0] < ways[0][0]
        return tuple(torch.where(nearer, b, a) for a, b in zip(*ways, strict=True))  # type: ignore[return-value]
    best, index = (
        torch.full((len(pictures),), torch.inf, dtype=torch.float64),
        torch.zeros(len(pictures), dtype=torch.int64),
    )
    own = _flat(pictures)
    for start in range(0, len(training), 4096):
        distance, nearest = nearest_neighbours(own, _flat(training[start : start + 4096]))
        index = torch.where(distance < best, nearest + start, index)
        best = torch.minimum(best, distance)
    return best / own.shape[1] ** 0.5, index


def _flat(pictures: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(pictures, np.float32)).flatten(1) / 127.5 - 1


@dataclass(frozen=True)
class RealSets:
    """Real pictures: the reference of all distances, others of the same number for the floor, and the training pictures if they are
    known, whose mirror images were trained on too if `mirrored`. note: why they are not, or not all."""

    reference: PictureSet
    floor: PictureSet
    training: PictureSet | None
    note: str = ""
    mirrored: bool = False


def choose_real(
    data: PictureSet,
    training: PictureSet | None,
    extractor: Extractor,
    n: int,
    seed: int = 0,
    like_reference: bool = False,
) -> RealSets:
    """n of `data` as reference and n others as floor, or as many as there are: of the training pictures, otherwise of `data` too.

    like_reference: the floor has the reference's classes, one for one, as samples have that are asked for by them; where chance decided
    over classes, it would stand farther from the reference than such samples.
    None of them is one that the extractor was trained on, and no picture is in both. Raises DataError if fewer than 8 are left.
    """
    own, own_keys = drawn(data, extractor, seed, "reference")
    pool = data if training is None else training
    others, keys = (own, own_keys) if training is None else drawn(pool, extractor, seed, "floor")
    different = len(np.union1d(own_keys, keys))
    n = min(n, len(own), len(others), different // 2)
    chosen = own_keys[:n]
    others = others[~np.isin(keys, chosen)]
    n = min(n, len(others))
    if n < FEWEST:
        raise DataError(
            f"too few real pictures are left to compare with: {len(own)} of {len(data)} in the data"
            + ("" if training is None else f", {len(keys)} of {len(training)} in training")
            + f" were not seen by the extractor, {different} of them different; at least {2 * FEWEST} are needed"
        )
    told = ""
    if like_reference and data.labels is not None and pool.labels is not None and data.classes == pool.classes:
        others, missing = of_classes(others, pool.labels, data.labels[own[:n]])
        if missing:
            told = f"{missing} of the {n} pictures of the floor have another class than the reference's, of which there are too few"
    sets = RealSets(take(data, own[:n]), take(pool, others[:n]), None, told)
    if training is None:
        return sets
    return replace(sets, training=take(training, np.sort(permutation(len(training), seed, "training")[:REAL_AT_MOST])))


def of_classes(others: np.ndarray, labels: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, int]:
    """As many of `others`, numbers into `labels`, as classes are wanted: the first of each class, where it has none left the first of any;
    and how often that was."""
    taken = np.zeros(len(others), bool)
    for label, count in zip(*np.unique(wanted, return_counts=True), strict=True):
        taken[np.flatnonzero(labels[others] == label)[:count]] = True
    missing = len(wanted) - int(taken.sum())
    taken[np.flatnonzero(~taken)[:missing]] = True
    return others[taken], missing


def drawn(data: PictureSet, extractor: Extractor, seed: int, stream: str) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of all pictures that the extractor did not see in an order drawn by the seed, and their `picture_keys`."""
    order = permutation(len(data), seed, stream)
    keys = np.concatenate(
        [np.zeros(0, np.uint64)]
        + [picture_keys(np.asarray(data.pictures[i : i + 4096])) for i in range(0, len(data), 4096)]
    )[order]
    unseen = ~extractor.knew(keys) if isinstance(extractor, ClassifierExtractor) else np.ones(len(keys), bool)
    return order[unseen], keys[unseen]


def class_accuracy(extractor: Extractor, found: Tensor, wanted: Sequence[str] | None) -> dict[str, Any] | None:
    """The share of pictures that the extractor's classifier takes for what was asked, with its standard error, in all and by class.

    None where it does not know the classes, or where nothing was asked.
    """
    if not isinstance(extractor, ClassifierExtractor) or not wanted or not set(wanted) <= set(extractor.origin.classes):
        return None
    names = np.array(extractor.origin.classes)[extractor.labels(found)]
    right = names == np.array(wanted)
    share = float(right.mean())
    by_class = {
        name: float(right[np.array(wanted) == name].mean()) for name in extractor.origin.classes if name in wanted
    }
    return {"share": share, "standard_error": (share * (1 - share) / len(right)) ** 0.5, "by_class": by_class}

"""How good pictures are: distances to real ones beside the floor that other real ones have, class accuracy, and copies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
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

REAL_AT_MOST = 50_000  # of a set, drawn by the seed: they are held in memory
FEWEST = 8
CLOSEST = 8


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
    than 99 of 100 held-out pictures are; about 0.01 where nothing is remembered. closest: (sample, training picture) with the
    least distances, as numbers.
    """

    samples: float
    held_out: float
    copies: float
    closest: list[tuple[int, int]]
    training: int

    @classmethod
    def between(cls, samples: np.ndarray, held_out: np.ndarray, training: np.ndarray) -> Memorisation:
        """Of pictures (N, H, W, C) uint8 of each."""
        distance, index = nearest_pictures(samples, training)
        others, _ = nearest_pictures(held_out, training)
        order = distance.argsort()[:CLOSEST]
        return cls(
            float(distance.median()),
            float(others.median()),
            float((distance < others.quantile(0.01)).double().mean()),
            [(int(i), int(index[i])) for i in order],
            len(training),
        )


def nearest_pictures(pictures: np.ndarray, training: np.ndarray) -> tuple[Tensor, Tensor]:
    """Of each picture the distance to the nearest training picture, and which it is: (N,), (N,)."""
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
    known. note: why they are not."""

    reference: PictureSet
    floor: PictureSet
    training: PictureSet | None
    note: str = ""


def choose_real(data: PictureSet, training: PictureSet | None, extractor: Extractor, n: int, seed: int = 0) -> RealSets:
    """n of `data` as reference and n others as floor, or as many as there are: of the training pictures, otherwise of `data` too.

    None of them is one that the extractor was trained on, and no picture is in both. Raises DataError if fewer than 8 are left.
    """
    own = drawn(data, extractor, seed, "reference")
    if training is None:
        n = min(n, len(own) // 2)
        sets = RealSets(take(data, own[:n]), take(data, own[n : 2 * n]), None)
    else:
        reference_keys = picture_keys(np.asarray(data.pictures[own[:n]]))
        others = drawn(training, extractor, seed, "floor", not_these=reference_keys)
        n = min(n, len(own), len(others))
        kept = np.sort(permutation(len(training), seed, "training")[:REAL_AT_MOST])
        sets = RealSets(take(data, own[:n]), take(training, others[:n]), take(training, kept))
    if n < FEWEST:
        raise DataError(
            f"too few real pictures are left to compare with: {len(own)} of {len(data)} in the data"
            + ("" if training is None else f", {len(others)} of {len(training)} in training")
            + f" were not seen by the extractor; at least {FEWEST} of each are needed"
        )
    return sets


def drawn(
    data: PictureSet, extractor: Extractor, seed: int, stream: str, not_these: Sequence[int] | np.ndarray = ()
) -> np.ndarray:
    """The numbers of all pictures in an order drawn by the seed, without those that the extractor saw and those with one of these keys."""
    order = permutation(len(data), seed, stream)
    if not isinstance(extractor, ClassifierExtractor) and not len(not_these):
        return order
    keys = np.concatenate([picture_keys(np.asarray(data.pictures[i : i + 4096])) for i in range(0, len(data), 4096)])
    bad = np.isin(keys, np.asarray(not_these, np.uint64))
    if isinstance(extractor, ClassifierExtractor):
        bad |= extractor.knew(keys)
    return order[~bad[order]]


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

"""Defects of the evaluation: distances, the choice of real pictures, copies, and extractors of features."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from alphabar.evaluation.distances import _discrepancy, _without
from alphabar.evaluation.quality import Memorisation
from alphabar.evaluation.run_evaluation import Judged

from ..seeding import Defects

DEFECTS = Defects()
DISTANCES, QUALITY = "evaluation/test_distances.py", "evaluation/test_quality.py"
CLASSIFIER, INCEPTION = "evaluation/test_classifier.py", "evaluation/test_inception.py"
EXTRACTORS, COMMAND = "evaluation/test_extractors.py", "cli/test_evaluate.py"

# Distances


@DEFECTS.seed("Frechet distance with one root", "frechet_distance", DISTANCES, "frechet")
def _(original: Any) -> Any:
    def frechet_distance(a, b):
        without_root = (a.mean(0) - b.mean(0)).square().sum() + a.var(0).sum() + b.var(0).sum()
        return (original(a, b) + float(without_root)) / 2

    return frechet_distance


def members(n: int, groups: int) -> Tensor:
    """Which of the groups each of n pictures belongs to, as ones and zeros (n, groups)."""
    return F.one_hot(torch.arange(n) * groups // n, groups).double()


@DEFECTS.seed("kernel of degree 2", "_kernel_sums", DISTANCES, "kernel")
def _(original: Any) -> Any:
    def sums(x, y, groups):
        values = (x @ y.T / x.shape[1] + 1) ** 2
        if x is y:
            values.fill_diagonal_(0)
        return members(len(x), groups).T @ values @ members(len(y), groups)

    def kernel_sums(a, b, groups):
        pairs = ((a, a), (b, b), (a, b))
        right = original(a, b, groups)
        return tuple(replace(part, sums=sums(x, y, groups)) for part, (x, y) in zip(right, pairs, strict=True))

    return kernel_sums


@DEFECTS.seed("kernel distance with the pairs of one with itself", "_kernel_sums", DISTANCES, "kernel")
def _(original: Any) -> Any:
    def with_diagonal(part, x, groups):
        diagonal = (x.square().sum(1) / x.shape[1] + 1) ** 3
        return replace(part, sums=part.sums + torch.diag(members(len(x), groups).T @ diagonal))

    def kernel_sums(a, b, groups):
        aa, bb, ab = original(a, b, groups)
        return with_diagonal(aa, a, groups), with_diagonal(bb, b, groups), ab

    return kernel_sums


@DEFECTS.seed(
    "an error of the kernel distance that counts pairs of groups twice", "_standard_error", DISTANCES, "zero_within"
)
def _(original: Any) -> Any:
    def standard_error(sums, groups):
        values = [_discrepancy(*(_without(part, group) for part in sums)) for group in range(groups)]
        return (groups - 1) ** 0.5 * float(np.std(values))

    return standard_error


@DEFECTS.seed("a neighbour too few", "radius", DISTANCES, "overlap")
def _(original: Any) -> Any:
    return lambda features, neighbours: original(features, neighbours - 1)


@DEFECTS.seed("recall by the real cloud", "overlap", DISTANCES, "overlap")
def _(original: Any) -> Any:
    def overlap(*given):
        right = original(*given)
        return replace(right, recall=right.coverage)  # the share of real pictures with a sample in their own ball

    return overlap


# Samples and real pictures


@DEFECTS.seed("the first pictures of a folder are judged", "Judged.drawn", QUALITY, "not_the_first")
def _(original: Any) -> Any:
    def drawn(self, n, seed):
        if len(self.pictures) <= n:
            return self
        return Judged(self.pictures[:n], self.classes and self.classes[:n], self.record)

    return drawn


@DEFECTS.seed("mirrored copies are overlooked", "nearest_pictures", QUALITY, "copies_are_found")
def _(original: Any) -> Any:
    return lambda pictures, training, mirrored=False: original(pictures, training)


@DEFECTS.seed("nearest in the last part only", "nearest_pictures", QUALITY, "all_parts")
def _(original: Any) -> Any:
    def nearest_pictures(*given):
        distance, index = original(*given)
        return distance, index % 4096

    return nearest_pictures


@DEFECTS.seed("floor out of the reference", "choose_real", QUALITY, "disjoint")
def _(original: Any) -> Any:
    def choose_real(*given, **options):
        sets = original(*given, **options)
        return replace(sets, floor=sets.reference)

    return choose_real


@DEFECTS.seed("real pictures that the extractor saw", "drawn", QUALITY, "disjoint")
def _(original: Any) -> Any:
    return lambda data, extractor, seed, stream: original(data, None, seed, stream)


@DEFECTS.seed("training pictures as a measure of copies", "remembered", COMMAND, "that_are_there")
def _(original: Any) -> Any:
    def remembered(pictures, real):
        if real.training is None:
            return None
        reference, training = (np.asarray(data.pictures[:]) for data in (real.reference, real.training))
        return Memorisation.between(pictures, reference, training, real.mirrored)

    return remembered


# Extractors


@DEFECTS.seed("an extractor that forgets one", "train_classifier", CLASSIFIER, "least_keys")
def _(original: Any) -> Any:
    def train_classifier(*given, **options):
        extractor = original(*given, **options)
        extractor.seen = extractor.seen[1:]
        return extractor

    return train_classifier


@DEFECTS.seed("an extractor's names that may be damaged", "check_sum", CLASSIFIER, "cannot_be")
def _(original: Any) -> Any:
    def check_sum(extractor):
        return hashlib.sha256(extractor.hash.encode() + extractor.seen.astype("<u8").tobytes()).hexdigest()[:12]

    return check_sum


@DEFECTS.seed("padding in the average", "average", INCEPTION, "padding")
def _(original: Any) -> Any:
    return lambda x: F.avg_pool2d(x, 3, 1, 1)


@DEFECTS.seed("any weights are official", "InceptionExtractor.__init__", INCEPTION, "grey")
def _(original: Any) -> Any:
    return lambda self, model, digest, official: original(self, model, digest, True)


@DEFECTS.seed("features of other data", "content_hash", EXTRACTORS, "once")
def _(original: Any) -> Any:
    return lambda pictures: str(len(pictures))

"""How far apart two sets of features are: (N, D) of samples against (M, D) of real pictures, in float64.

Every distance of finite sets has a floor: what real pictures have against other real pictures of the same number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ConfigurationError

NEIGHBOURS = 5
GROUPS = 50
ROWS = 1024  # of a matrix of distances or of kernel values at a time: memory grows with N, not with N^2


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """|mu_a - mu_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), of the means and covariances of both.

    The root's trace is that of (C_a^(1/2) C_b C_a^(1/2))^(1/2), which is symmetric. Biased upwards by about D / N: compare at the same N.
    Source: Dowson & Landau 1982, eq. 4; Heusel et al. 2017, sec. 2. Raises ConfigurationError for fewer than two of either.
    """
    a, b = checked(a, b)
    difference = a.mean(0) - b.mean(0)
    c_a, c_b = torch.cov(a.T).reshape(a.shape[1], -1), torch.cov(b.T).reshape(b.shape[1], -1)
    values, vectors = torch.linalg.eigh(c_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    trace_of_root = torch.linalg.eigvalsh(root @ c_b @ root).clamp(min=0).sqrt().sum()
    return max(0.0, float(difference @ difference + c_a.trace() + c_b.trace() - 2 * trace_of_root))


def kernel_distance(a: Tensor, b: Tensor) -> tuple[float, float]:
    """The unbiased squared maximum mean discrepancy with the kernel (x y / D + 1)^3, and its standard error.

    All pairs are used. The error is the jackknife's, leaving out one of up to 50 groups of both sets at a time, without what it counts twice
    (`_standard_error`); rather too large than too small where there are few pictures. Around 0 for equal distributions, and then below 0 half of the time.
    Source: Binkowski et al. 2018, "Demystifying MMD GANs", eq. 4 and sec. 4.
    """
    a, b = checked(a, b)
    groups = min(GROUPS, len(a) // 2, len(b) // 2)
    if groups < 2:
        return _discrepancy(*_kernel_sums(a, b, 1)), float("nan")
    sums = _kernel_sums(a, b, groups)
    whole = _discrepancy(*sums)
    return whole, _standard_error(sums, groups)


def _standard_error(sums: tuple[KernelSums, KernelSums, KernelSums], groups: int) -> float:
    """Of the discrepancy, an average over pairs of groups g, h of mu + A_g + A_h + B_gh: its variance is 4 var(A) / G + 2 var(B) / G^2.

    The jackknife's expects (4 G - 6) / (G (G - 1)^2) var(B) instead of the last, twice as much, which counts where both sets are alike and
    little but B is left (Efron & Stein 1981, "The jackknife estimate of variance", sec. 4). var(B) is what the blocks keep once the means of
    rows and columns are taken off.
    """
    values = [_discrepancy(*(_without(part, g) for part in sums)) for g in range(groups)]
    left = torch.tensor(values, dtype=torch.float64)
    jackknife = float((groups - 1) / groups * (left - left.mean()).square().sum())
    if groups < 4:
        return jackknife**0.5  # nothing is left of so few blocks
    aa, bb, ab = (part.sums / part.pairs for part in sums)
    across = ~torch.eye(groups, dtype=torch.bool)
    blocks = (aa + bb - ab - ab.T) * across
    rows = blocks.sum(1)
    mean = rows.sum() / (groups * (groups - 1))
    own = (rows - (groups - 1) * mean) / (
        groups - 2
    )  # A_g by least squares, as there is no block of a group with itself
    rest = (blocks - mean - own[:, None] - own) * across
    of_pairs = float(rest.square().sum()) / (groups * (groups - 3))
    too_much = (4 * groups - 6) / (groups * (groups - 1) ** 2) - 2 / groups**2
    return (
        max(jackknife - of_pairs * too_much, jackknife / 2) ** 0.5
    )  # about half of it is the most that can be too much


@dataclass(frozen=True)
class KernelSums:
    """Sums of kernel values between groups (G, G), and how many pairs each is of; without the pairs of one with itself."""

    sums: Tensor
    pairs: Tensor

    def mean(self) -> float:
        """Of all values."""
        return float(self.sums.sum() / self.pairs.sum())


def _kernel_sums(a: Tensor, b: Tensor, groups: int) -> tuple[KernelSums, KernelSums, KernelSums]:
    return _sums(a, a, groups, True), _sums(b, b, groups, True), _sums(a, b, groups, False)


def _sums(x: Tensor, y: Tensor, groups: int, same: bool) -> KernelSums:
    parts = [torch.arange(len(s)) * groups // len(s) for s in (x, y)]
    counts = [torch.bincount(part, minlength=groups).double() for part in parts]
    sums = torch.zeros(groups, groups, dtype=torch.float64)
    for rows in _rows(len(x)):
        values = (x[rows] @ y.T / x.shape[1] + 1) ** 3
        if same:
            values[torch.arange(len(values)), torch.arange(len(x))[rows]] = 0
        by_column = torch.zeros(len(values), groups, dtype=torch.float64).index_add_(1, parts[1], values)
        sums.index_add_(0, parts[0][rows], by_column)
    return KernelSums(sums, counts[0][:, None] * counts[1] - (torch.diag(counts[0]) if same else 0))


def _without(part: KernelSums, group: int) -> KernelSums:
    kept = torch.arange(len(part.sums)) != group
    return KernelSums(part.sums[kept][:, kept], part.pairs[kept][:, kept])


def _discrepancy(aa: KernelSums, bb: KernelSums, ab: KernelSums) -> float:
    return aa.mean() + bb.mean() - 2 * ab.mean()


@dataclass(frozen=True)
class Overlap:
    """How two clouds of features lie in each other. All in [0, 1] but density, which has no upper end and is about 1 for real pictures; theirs
    of the others lie somewhat below 1, as the floor tells.

    precision: the share of samples that lie in the real cloud; recall: the share of real ones that lie in the cloud of samples.
    density: how many balls of real ones a sample lies in, over k. coverage: the share of real ones with a sample in their ball.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def overlap(samples: Tensor, real: Tensor, neighbours: int = NEIGHBOURS) -> Overlap:
    """By balls around each feature that reach to its k-th nearest neighbour in its own set.

    Source: Kynkäänniemi et al. 2019, eq. 1-2 (precision, recall); Naeem et al. 2020, eq. 3-6 (density, coverage).
    Raises ConfigurationError where a set has no k neighbours.
    """
    samples, real = checked(samples, real)
    if min(len(samples), len(real)) <= neighbours:
        raise ConfigurationError(
            f"precision and recall with {neighbours} neighbours need more than {neighbours} pictures on each side, "
            f"got {len(samples)} samples and {len(real)} real ones"
        )
    real_radius, sample_radius = radius(real, neighbours), radius(samples, neighbours)
    covered, in_real, balls = torch.zeros(len(real), dtype=torch.bool), 0.0, 0.0
    in_samples = torch.zeros(len(real), dtype=torch.bool)
    for rows in _rows(len(samples)):
        distances = torch.cdist(samples[rows], real)
        inside = distances <= real_radius
        in_real += float(inside.any(1).sum())
        balls += float(inside.sum())
        covered |= inside.any(0)
        in_samples |= (distances <= sample_radius[rows, None]).any(0)
    n = len(samples)
    return Overlap(
        in_real / n, float(in_samples.double().mean()), balls / n / neighbours, float(covered.double().mean())
    )


def radius(features: Tensor, neighbours: int) -> Tensor:
    """The distance (N,) of each to its k-th nearest neighbour, itself not counted."""
    found = []
    for rows in _rows(len(features)):
        distances = torch.cdist(features[rows], features)
        distances[torch.arange(len(distances)), torch.arange(len(features))[rows]] = -1
        found.append(distances.kthvalue(neighbours + 1, dim=1).values)
    return torch.cat(found)


def nearest_neighbours(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Of each of a (N, D) the distance to the nearest of b (M, D), and which it is: (N,), (N,)."""
    a, b = checked(a, b, least=1)
    found = [torch.cdist(a[rows], b).min(1) for rows in _rows(len(a))]
    return torch.cat([part.values for part in found]), torch.cat([part.indices for part in found])


def checked(a: Tensor, b: Tensor, least: int = 2) -> tuple[Tensor, Tensor]:
    """Both as float64. Raises ConfigurationError for shapes that cannot be compared and for values that are not finite."""
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < least:
        raise ConfigurationError(
            f"features must be (N, D) and (M, D) of at least {least} pictures, got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    if not (a.isfinite().all() and b.isfinite().all()):
        raise ConfigurationError("features must be finite: the extractor gave infinity or no number for some pictures")
    return a.double(), b.double()


def _rows(n: int) -> Iterator[slice]:
    return (slice(start, min(start + ROWS, n)) for start in range(0, n, ROWS))

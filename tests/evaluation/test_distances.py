"""Distances of features: closed forms on Gaussians, zero between halves of one set, and independent implementations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist

from alphabar.errors import ConfigurationError
from alphabar.evaluation import distances
from alphabar.evaluation.distances import (
    frechet_distance,
    kernel_distance,
    nearest_neighbours,
    overlap,
    radius,
)


def normal(n: int, dim: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((n, dim)))


def exactly(n: int, mean: np.ndarray, cov: np.ndarray, seed: int = 0) -> torch.Tensor:
    """n points whose mean and covariance are exactly these."""
    x = np.random.default_rng(seed).standard_normal((n, len(mean)))
    x = (x - x.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T
    return torch.from_numpy(x @ np.linalg.cholesky(cov).T + mean)


def test_frechet_of_gaussians_is_its_closed_form():
    """Of diagonal covariances: sum of (mu_a - mu_b)^2 + (sigma_a - sigma_b)^2."""
    a = exactly(50, np.array([1.0, 2, 3]), np.diag([1.0, 4, 9]))
    b = exactly(80, np.array([0.0, 2, 5]), np.diag([4.0, 4, 1]), seed=1)
    assert frechet_distance(a, b) == pytest.approx(1 + 4 + 1 + 0 + 4, abs=1e-9)
    turn = np.linalg.qr(np.random.default_rng(3).standard_normal((3, 3)))[0]
    assert frechet_distance(a @ turn, b @ turn) == pytest.approx(10, abs=1e-9)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("dim", [1, 5, 40])
def test_frechet_agrees_with_the_matrix_root_of_scipy(dim):
    """Also with fewer points than features, where covariances are singular."""
    a, b = normal(30, dim).numpy(), (normal(25, dim, 1) * 2 + 1).numpy()
    c_a, c_b = np.atleast_2d(np.cov(a.T)), np.atleast_2d(np.cov(b.T))
    root = np.real(sqrtm(c_a @ c_b))
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(c_a + c_b - 2 * root)
    assert frechet_distance(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(expected, rel=1e-4)


def test_kernel_distance_agrees_with_sums_written_out():
    a, b = normal(23, 6), normal(31, 6, 1) * 1.5 + 0.3
    x, y = a.numpy(), b.numpy()

    def k(u: np.ndarray, v: np.ndarray) -> float:
        return float((np.dot(u, v) / 6 + 1) ** 3)

    aa = np.mean([k(x[i], x[j]) for i in range(23) for j in range(23) if i != j])
    bb = np.mean([k(y[i], y[j]) for i in range(31) for j in range(31) if i != j])
    ab = np.mean([k(u, v) for u in x for v in y])
    assert kernel_distance(a, b)[0] == pytest.approx(aa + bb - 2 * ab, rel=1e-9)


def test_kernel_distance_of_gaussians_is_its_closed_form():
    """In one dimension E k(x, y) = 1 + 3 m1 n1 + 3 m2 n2 + m3 n3 with the moments of both sides."""
    a, b = normal(4000, 1), normal(4000, 1, 1) + 0.5
    moments = [np.array([0.0, 1, 0]), np.array([0.5, 1.25, 0.5**3 + 3 * 0.5])]

    def mean_kernel(m: np.ndarray, n: np.ndarray) -> float:
        return float(1 + (np.array([3, 3, 1]) * m * n).sum())

    p, q = moments
    expected = mean_kernel(p, p) + mean_kernel(q, q) - 2 * mean_kernel(p, q)
    value, error = kernel_distance(a, b)
    assert abs(value - expected) < 4 * error
    assert 0 < error < expected / 4


def test_kernel_distance_of_two_halves_is_zero_within_its_error():
    """Over 100 splits: unbiased, and the error is as large as the values spread."""
    found = [kernel_distance(*normal(400, 8, seed).split(200)) for seed in range(100)]
    values, errors = np.array(found).T
    spread = values.std()
    assert abs(values.mean()) < 4 * spread / 100**0.5
    assert 0.8 < np.median(errors) / spread < 1.3
    assert (values < 0).any()


def test_the_error_of_the_kernel_distance_is_how_far_it_spreads_where_sets_differ():
    found = [kernel_distance(normal(200, 8, 2 * seed), normal(200, 8, 2 * seed + 1) + 0.2) for seed in range(100)]
    values, errors = np.array(found).T
    assert 0.8 < np.median(errors) / values.std() < 1.3


def test_kernel_distance_in_pieces_is_the_same(monkeypatch):
    a, b = normal(50), normal(70, 4, 1)
    whole = kernel_distance(a, b)
    monkeypatch.setattr(distances, "ROWS", 7)
    assert kernel_distance(a, b) == pytest.approx(whole, rel=1e-9)


def test_kernel_distance_of_a_few_has_no_error():
    value, error = kernel_distance(normal(3), normal(3, 4, 1))
    assert np.isfinite(value)
    assert np.isnan(error)


def written_out(samples: np.ndarray, real: np.ndarray, k: int) -> tuple[float, float, float, float]:
    """Precision, recall, density and coverage, one pair at a time."""
    real_radius = np.sort(cdist(real, real), 1)[:, k]
    sample_radius = np.sort(cdist(samples, samples), 1)[:, k]
    between = cdist(samples, real)
    precision = np.mean([any(between[i, j] <= real_radius[j] for j in range(len(real))) for i in range(len(samples))])
    recall = np.mean([any(between[i, j] <= sample_radius[i] for i in range(len(samples))) for j in range(len(real))])
    density = sum(between[i, j] <= real_radius[j] for i in range(len(samples)) for j in range(len(real))) / (
        k * len(samples)
    )
    coverage = np.mean([between[:, j].min() <= real_radius[j] for j in range(len(real))])
    return precision, recall, density, coverage


@pytest.mark.parametrize("rows", [7, 1024])
def test_overlap_agrees_with_its_definition(rows, monkeypatch):
    monkeypatch.setattr(distances, "ROWS", rows)
    samples, real = normal(40, 3) * 1.3 + 0.5, normal(60, 3, 1)
    found = overlap(samples, real, 3)
    expected = written_out(samples.numpy(), real.numpy(), 3)
    assert (found.precision, found.recall, found.density, found.coverage) == pytest.approx(expected, abs=1e-9)
    torch.testing.assert_close(radius(real, 3), torch.from_numpy(np.sort(cdist(real, real), 1)[:, 3]))


def test_overlap_tells_missing_modes_from_bad_samples():
    real = torch.cat([normal(100, 2), normal(100, 2, 1) + 20])
    one_mode = overlap(normal(200, 2, 2), real)
    assert one_mode.precision > 0.9
    assert one_mode.recall < 0.6
    assert one_mode.coverage < 0.6
    wild = overlap(normal(200, 2, 2) * 30, real)
    assert wild.precision < 0.3
    assert overlap(real, real).density == pytest.approx(1, abs=0.3)


def test_nearest_neighbours():
    a, b = normal(30), normal(50, 4, 1)
    distance, index = nearest_neighbours(a, b)
    expected = cdist(a, b)
    assert index.tolist() == expected.argmin(1).tolist()
    torch.testing.assert_close(distance, torch.from_numpy(expected.min(1)))


def test_what_cannot_be_compared():
    with pytest.raises(ConfigurationError, match=r"features must be \(N, D\)"):
        frechet_distance(normal(5), normal(5, 3))
    with pytest.raises(ConfigurationError, match="at least 2 pictures"):
        kernel_distance(normal(1), normal(5))
    with pytest.raises(ConfigurationError, match="must be finite"):
        frechet_distance(normal(5) / 0, normal(5))
    with pytest.raises(ConfigurationError, match="more than 5 pictures on each side"):
        overlap(normal(5), normal(50))

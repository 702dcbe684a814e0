"""Law 1: eps, x_0 and v say the same, and convert into each other without loss."""

from __future__ import annotations

import pytest
import torch

from alphabar.diffusion.gaussian import diffuse
from alphabar.diffusion.parameterization import (
    PREDICTIONS,
    eps_from_v,
    eps_from_x_0,
    predict,
    target,
    v_from_x_0_and_eps,
    x_0_from_eps,
    x_0_from_v,
)
from alphabar.diffusion.schedule import TableSchedule, linear_betas
from alphabar.errors import ConfigurationError

SCHEDULE = TableSchedule(linear_betas(1000))
TIMES = torch.tensor([0.001, 0.05, 0.3, 0.7, 1.0], dtype=torch.float64)
A, B = SCHEDULE.signal(TIMES), SCHEDULE.noise(TIMES)
X_0, EPS = torch.randn(2, 5, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
X_T = diffuse(X_0, SCHEDULE.alpha_bar(TIMES), EPS)


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_a_perfect_network_recovers_picture_and_noise(kind):
    prediction = predict(kind, target(kind, X_0, EPS, A, B), X_T, A, B)
    torch.testing.assert_close(prediction.x_0, X_0, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(prediction.eps, EPS, rtol=1e-7, atol=1e-9)


def test_conversions_are_inverse_to_each_other():
    torch.testing.assert_close(x_0_from_eps(X_T, eps_from_x_0(X_T, X_0, A, B), A, B), X_0, rtol=1e-7, atol=1e-9)
    v = v_from_x_0_and_eps(X_0, EPS, A, B)
    torch.testing.assert_close(x_0_from_v(X_T, v, A, B), X_0)
    torch.testing.assert_close(eps_from_v(X_T, v, A, B), EPS)


def test_v_is_the_velocity_on_the_circle():
    """With a = cos(phi), b = sin(phi): v = d x_t / d phi."""
    phi, h = torch.tensor(0.6, dtype=torch.float64), 1e-6
    path = lambda p: torch.cos(p) * X_0 + torch.sin(p) * EPS  # noqa: E731
    derivative = (path(phi + h) - path(phi - h)) / (2 * h)
    torch.testing.assert_close(v_from_x_0_and_eps(X_0, EPS, phi.cos(), phi.sin()), derivative, rtol=1e-6, atol=1e-8)


def test_unknown_prediction_names_the_known_ones():
    with pytest.raises(ConfigurationError, match="did you mean 'eps'"):
        target("epss", X_0, EPS, A, B)
    with pytest.raises(ConfigurationError, match="known: eps, v, x_0"):
        predict("noise!", X_0, X_T, A, B)

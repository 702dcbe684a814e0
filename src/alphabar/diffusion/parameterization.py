"""What a network may predict, eps, x_0 or v, and how each follows from the other at a known x_t = a x_0 + b eps.

a = sqrt(alpha_bar_t) and b = sqrt(1 - alpha_bar_t) are float64 of shape () or (N,); pictures are (N, ...).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..errors import unknown
from .gaussian import Coefficient, expand

PREDICTIONS = ("eps", "x_0", "v")


@dataclass(frozen=True)
class Prediction:
    """What a denoiser says about x_t: estimates of the clean picture and of the noise, consistent with each other.

    x_0, eps: shape of x_t, float32. variance_fraction: shape of x_t, nominally in [0, 1] (0 is the posterior variance,
    1 is beta, between them in log space), or None if the variance was not learned.
    """

    x_0: Tensor
    eps: Tensor
    variance_fraction: Tensor | None = None


def x_0_from_eps(x_t: Tensor, eps: Tensor, a: Coefficient, b: Coefficient) -> Tensor:
    """x_0 = (x_t - b eps) / a. Needs a > 0."""
    return (x_t - expand(b, eps) * eps) / expand(a, x_t)


def eps_from_x_0(x_t: Tensor, x_0: Tensor, a: Coefficient, b: Coefficient) -> Tensor:
    """eps = (x_t - a x_0) / b. Needs b > 0."""
    return (x_t - expand(a, x_0) * x_0) / expand(b, x_t)


def v_from_x_0_and_eps(x_0: Tensor, eps: Tensor, a: Coefficient, b: Coefficient) -> Tensor:
    """v = a eps - b x_0 (Salimans & Ho 2022, sec. 4)."""
    return expand(a, eps) * eps - expand(b, x_0) * x_0


def x_0_from_v(x_t: Tensor, v: Tensor, a: Coefficient, b: Coefficient) -> Tensor:
    """x_0 = a x_t - b v."""
    return expand(a, x_t) * x_t - expand(b, v) * v


def eps_from_v(x_t: Tensor, v: Tensor, a: Coefficient, b: Coefficient) -> Tensor:
    """eps = b x_t + a v."""
    return expand(b, x_t) * x_t + expand(a, v) * v


def target(kind: str, x_0: Tensor, eps: Tensor, a: Coefficient, b: Coefficient) -> Tensor:
    """What a network of this kind ("eps", "x_0" or "v") should say about x_t = a x_0 + b eps. Shape of x_0."""
    match kind:
        case "eps":
            return eps
        case "x_0":
            return x_0
        case "v":
            return v_from_x_0_and_eps(x_0, eps, a, b)
        case _:
            raise unknown("prediction", kind, PREDICTIONS)


def predict(
    kind: str, output: Tensor, x_t: Tensor, a: Coefficient, b: Coefficient, variance_fraction: Tensor | None = None
) -> Prediction:
    """The Prediction that a network's output of this kind means at x_t. "eps" needs a > 0, "x_0" needs b > 0."""
    match kind:
        case "eps":
            return Prediction(x_0_from_eps(x_t, output, a, b), output, variance_fraction)
        case "x_0":
            return Prediction(output, eps_from_x_0(x_t, output, a, b), variance_fraction)
        case "v":
            return Prediction(x_0_from_v(x_t, output, a, b), eps_from_v(x_t, output, a, b), variance_fraction)
        case _:
            raise unknown("prediction", kind, PREDICTIONS)

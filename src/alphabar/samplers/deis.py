"""DEIS: a polynomial through the noise estimates of up to four visits, integrated exactly."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..diffusion.denoiser import DenoiserLike
from ..diffusion.gaussian import expand
from ..errors import ConfigurationError
from .base import Noise, Sampler, Visit
from .coordinates import half_log_snr, jump, stride, usable


class DEIS(Sampler):
    """x_s = (a_s / a_t) x_t - b_s sum_j w_j eps_hat_j,   w_j = int_0^h e^(h - u) L_j(u) du,   u = lambda - lambda_t,

    L_j being Lagrange's polynomials of the last visits. Source: Zhang & Chen 2023, eq. 14 and 15, with polynomials in log sigma
    (their "log rho"). It starts with steps of order 1, 2, ...; those without a finite h are Euler's.
    Raises ConfigurationError unless the order is 1 to 4.
    """

    def __init__(self, order: int = 4) -> None:
        if order not in (1, 2, 3, 4):
            raise ConfigurationError(f"DEIS has the orders 1 to 4, got {order}")
        self.order, self.start_order, self.memory = order, min(order, 2), order - 1

    def step(
        self, denoiser: DenoiserLike, x_t: Tensor, t: Tensor, s: Tensor, noise: Noise, past: Sequence[Visit] = ()
    ) -> tuple[Tensor, Visit]:
        """One step, one network call."""
        schedule, said, c = denoiser.schedule, denoiser(x_t, t), stride(denoiser.schedule, t, s)
        visit = Visit(t, x_t, said)
        if c.singular:
            return jump(said, c.a_s, c.b_s), visit
        visits = [visit, *usable(past, schedule, self.memory)]
        nodes = torch.stack([half_log_snr(schedule, v.t) for v in visits]) - half_log_snr(schedule, t)
        weights = lagrange_weights(c.h, nodes)
        eps = sum((expand(w, x_t) * v.said.eps for w, v in zip(weights, visits, strict=True)), torch.zeros_like(x_t))
        return expand(c.a_s / c.a_t, x_t) * x_t - expand(c.b_s, x_t) * eps, visit


def lagrange_weights(h: Tensor, nodes: Tensor) -> Tensor:
    """w_j = int_0^h e^(h - u) L_j(u) du for the nodes u_j (k,). Returns (k,).

    With moments m_i = int_0^h e^(h - u) (u / h)^i du: m_0 = e^h - 1 and m_i = i m_(i-1) / h - 1. The w_j make the integral of every
    monomial exact: sum_j (u_j / h)^i w_j = m_i.
    """
    moments = [torch.expm1(h)]
    for i in range(1, len(nodes)):
        moments.append(i * moments[-1] / h - 1)
    powers = torch.stack([(nodes / h) ** i for i in range(len(nodes))])
    return torch.linalg.solve(powers, torch.stack(moments))

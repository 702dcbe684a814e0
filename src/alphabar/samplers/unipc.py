"""UniPC: a predictor, and a corrector that costs no network call of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..diffusion.denoiser import DenoiserLike
from ..diffusion.gaussian import expand
from ..errors import ConfigurationError
from .base import Noise, Sampler, Visit
from .coordinates import Stride, data_step, half_log_snr, jump, stride, usable


class UniPC(Sampler):
    """UniP-p, corrected by UniC-p as soon as x_0_hat at its end is known (which the next step needs anyway):

    x_s = (b_s / b_t) x_t + a_s B (D_0 + sum_j rho_j (D_j - D_0) / r_j),   B = 1 - e^-h,   r_j = (lambda_j - lambda_t) / h,

    D_0 = x_0_hat(x_t, t) and D_j those of earlier visits and, in the corrector, of s itself (r = 1). The rho_j solve
    sum_j r_j^(k - 1) rho_j = c_k, k = 1, 2, ..., with B c_k = int_0^h e^(u - h) (u / h)^k du. Source: Zhao et al. 2023, eq. 5 to 10, in the data
    form with their B_2. Its order is p + 1, of the last step p: that one is not corrected. As in the authors' code rho_1 is 1/2 where only
    one difference is used. Raises ConfigurationError unless p is 1 to 3.
    """

    def __init__(self, p: int = 2) -> None:
        if p not in (1, 2, 3):
            raise ConfigurationError(f"UniPC has p from 1 to 3, got {p}")
        self.p, self.order, self.start_order, self.memory = p, p + 1, min(p + 1, 3), p

    def step(
        self, denoiser: DenoiserLike, x_t: Tensor, t: Tensor, s: Tensor, noise: Noise, past: Sequence[Visit] = ()
    ) -> tuple[Tensor, Visit]:
        """Correct x_t, then predict x_s; one network call."""
        schedule, said = denoiser.schedule, denoiser(x_t, t)
        earlier = usable(past, schedule, self.p)
        if earlier:
            last = earlier[0]
            c = stride(schedule, last.t, t)
            x_t = combined(denoiser, last, [*earlier[1:], Visit(t, x_t, said)], c)
        visit, c = Visit(t, x_t, said), stride(schedule, t, s)
        if c.singular:
            return jump(said, c.a_s, c.b_s), visit
        return combined(denoiser, visit, earlier[: self.p - 1], c), visit


def combined(denoiser: DenoiserLike, start: Visit, others: Sequence[Visit], c: Stride) -> Tensor:
    """x_s from the visit at the start of a stride and others, the end itself perhaps among them."""
    x_s = data_step(start.x_t, start.said.x_0, c)
    if not others:
        return x_s
    here = half_log_snr(denoiser.schedule, start.t)
    r = torch.stack([(half_log_snr(denoiser.schedule, v.t) - here) / c.h for v in others])
    scale = -c.a_s * torch.expm1(-c.h)
    for rho, r_j, visit in zip(weights(c.h, r), r, others, strict=True):
        x_s = x_s + expand(scale * rho / r_j, x_s) * (visit.said.x_0 - start.said.x_0)
    return x_s


def weights(h: Tensor, r: Tensor) -> Tensor:
    """rho (k,) for the places r (k,): c_1 = m_1 / m_0, ..., with the moments m_0 = 1 - e^-h, m_k = 1 - k m_(k-1) / h."""
    if len(r) == 1:
        return torch.full_like(r, 0.5)
    moments = [-torch.expm1(-h)]
    for k in range(1, len(r) + 1):
        moments.append(1 - k * moments[-1] / h)
    powers = torch.stack([r**k for k in range(len(r))])
    return torch.linalg.solve(powers, torch.stack(moments[1:]) / moments[0])

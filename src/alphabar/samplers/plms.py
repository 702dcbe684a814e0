"""PLMS: a linear multistep method for the noise estimate, with the step of DDIM."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..diffusion.denoiser import DenoiserLike
from ..diffusion.parameterization import Prediction, x_0_from_eps
from .base import Noise, Sampler, Visit
from .coordinates import jump, stride, usable

ADAMS_BASHFORTH = {2: (3 / 2, -1 / 2), 3: (23 / 12, -16 / 12, 5 / 12), 4: (55 / 24, -59 / 24, 37 / 24, -9 / 24)}


class PLMS(Sampler):
    """eps' = (55 eps_t - 59 eps_1 + 37 eps_2 - 9 eps_3) / 24 of this visit and the last three;   x_s = a_s x_0' + b_s eps',
    x_0' = (x_t - b_t eps') / a_t.

    Source: Liu et al. 2022 (PNDM), eq. 12 and 9. The weights are those of even steps in sigma; on other grids its order is 2. It
    starts with one step of Heun's kind (two network calls; without a finite lambda Euler's) and Adams-Bashforth of order 2 and 3.
    """

    order = 4
    start_order = 3
    memory = 3
    variable = "sigma"

    def step(
        self, denoiser: DenoiserLike, x_t: Tensor, t: Tensor, s: Tensor, noise: Noise, past: Sequence[Visit] = ()
    ) -> tuple[Tensor, Visit]:
        """One step, one network call; the first one has two."""
        schedule, said, c = denoiser.schedule, denoiser(x_t, t), stride(denoiser.schedule, t, s)
        visit, earlier = Visit(t, x_t, said), usable(past, schedule, 3)
        if not earlier and c.singular:
            return jump(said, c.a_s, c.b_s), visit
        if earlier:
            history = [said.eps, *(v.said.eps for v in earlier)]
            eps = sum((w * e for w, e in zip(ADAMS_BASHFORTH[len(history)], history, strict=True)), said.eps * 0)
        else:
            eps = (said.eps + denoiser(jump(said, c.a_s, c.b_s), s).eps) / 2
        return jump(Prediction(x_0_from_eps(x_t, eps, c.a_t, c.b_t), eps), c.a_s, c.b_s), visit

"""DDIM: the family between the deterministic way (eta = 0) and ancestral sampling (eta = 1)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..diffusion.denoiser import DenoiserLike
from ..diffusion.gaussian import expand, posterior_variance
from ..diffusion.parameterization import Prediction
from ..errors import ConfigurationError
from .base import Noise, Sampler, Visit
from .coordinates import jump


class DDIM(Sampler):
    """x_s = a_s x_0_hat + sqrt(b_s^2 - var) eps_hat + sqrt(var) z, var = eta^2 times the variance of q(x_s | x_t, x_0).

    Source: Song et al. 2021a, eq. 12 and 16. Raises ConfigurationError unless 0 <= eta <= 1.
    """

    def __init__(self, eta: float = 0.0) -> None:
        if not 0 <= eta <= 1:
            raise ConfigurationError(f"eta must lie in [0, 1] (0 is deterministic, 1 ancestral), got {eta:g}")
        self.eta = eta
        self.stochastic = eta > 0

    def step(
        self, denoiser: DenoiserLike, x_t: Tensor, t: Tensor, s: Tensor, noise: Noise, past: Sequence[Visit] = ()
    ) -> tuple[Tensor, Visit]:
        """One stride from t to s."""
        schedule, said = denoiser.schedule, denoiser(x_t, t)
        variance = self.eta**2 * posterior_variance(schedule.alpha_bar(t), schedule.alpha_bar(s))
        rest = (schedule.noise_variance(s) - variance).clamp(min=0).sqrt()
        x_s = jump(said, schedule.signal(s), rest)
        if variance > 0:
            x_s = x_s + expand(variance.sqrt(), x_s) * noise()
        return x_s, Visit(t, x_t, said)


class DDIMInversion(Sampler):
    """The way back up, s > t: the x_s from which `Euler`'s step (DDIM, eta = 0) leads to x_t.

    x_s = (a_s / a_t) x_t + (b_s - a_s b_t / a_t) eps_hat(x_s, s), an equation for x_s that is solved by iterating it from
    eps_hat = 0: each round is one network call, and there are as many as it takes until no pixel changes by more than `tolerance`, but
    no more than `rounds`. Song et al. 2021a, sec. 4.3, take eps_hat(x_t, t) instead, which only nearly comes back; the fixed point does
    (Pan et al. 2023, "Effective real image editing with accelerated iterative diffusion inversion").
    Raises ConfigurationError if x_s holds nothing of the picture (zero terminal SNR).
    """

    def __init__(self, rounds: int = 20, tolerance: float = 1e-4) -> None:
        if rounds < 1:
            raise ConfigurationError(f"inversion needs at least 1 round a step, got {rounds}")
        self.rounds, self.tolerance = rounds, tolerance

    def step(
        self, denoiser: DenoiserLike, x_t: Tensor, t: Tensor, s: Tensor, noise: Noise, past: Sequence[Visit] = ()
    ) -> tuple[Tensor, Visit]:
        """One step up."""
        a_t, b_t, a_s, b_s = (f(u) for u in (t, s) for f in (denoiser.schedule.signal, denoiser.schedule.noise))
        if a_s == 0:
            raise ConfigurationError("nothing of a picture is left at t = 1 (zero terminal SNR): invert to a lower t")
        x_s = expand(a_s / a_t, x_t) * x_t
        for _ in range(self.rounds):
            said: Prediction = denoiser(x_s, s)
            before, x_s = x_s, expand(a_s / a_t, x_t) * x_t + expand(b_s - a_s * b_t / a_t, x_t) * said.eps
            if float((x_s - before).abs().max()) <= self.tolerance:
                break
        return x_s, Visit(s, x_s, said)

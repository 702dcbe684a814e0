"""Guidance: denoisers that wrap a denoiser. With log-densities in mind, each is a sum of scores -eps_hat / b."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ..errors import ConfigurationError
from ..networks.cond import Cond, stack
from .denoiser import DenoiserLike
from .gaussian import expand
from .parameterization import Prediction, eps_from_x_0
from .schedule import Schedule, Time

Weight = float | Tensor


class Guided:
    """Classifier-free guidance (Ho & Salimans 2022, eq. 6, as u + w (c - u)), nested over several conditions:

    guided = u + w_1 (c_1 - u) + w_2 (c_12 - c_1) + ..., c_1..i being the estimate given the first i conditions.

    All weights 1 give the joint conditional c_1..k, all 0 the unconditional u. As the factors of the estimates sum to 1, it is the
    same in eps, x_0 and v. Estimates whose factor is 0 are not computed; the others go through the network as one batch. A
    learned variance is never guided: it is that of the last estimate computed.

    chain: the Cond of u, c_1, c_12, ..., k + 1 of them, for the batch at hand. weights: k numbers, or (N,) tensors.
    rescale: 0..1, how far x_0_hat is brought back to the standard deviation of that of c_1..k (Lin et al. 2024, eq. 15 and 16;
    there the output of a v-network, which at the noisy end is -x_0). interval: the t in (from, to] at which guidance works,
    elsewhere all weights are 1 (Kynkäänniemi et al. 2024, sec. 3).
    """

    def __init__(
        self,
        denoiser: DenoiserLike,
        chain: Sequence[Cond],
        weights: Sequence[Weight],
        rescale: float = 0.0,
        interval: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        if len(chain) != len(weights) + 1:
            raise ConfigurationError(
                f"guidance needs one estimate more than weights, got {len(chain)} and {len(weights)}"
            )
        self.denoiser, self.chain, self.rescale, self.interval = denoiser, list(chain), rescale, interval
        self.weights = [torch.as_tensor(weight, dtype=torch.float32) for weight in weights]

    @property
    def schedule(self) -> Schedule:
        """The schedule of the wrapped denoiser."""
        return self.denoiser.schedule

    def factors(self, t: Time) -> list[Tensor]:
        """The factor of each estimate of the chain, () or (N,): w_i - w_{i+1}, with w_0 = 1 and w_{k+1} = 0. They sum to 1."""
        low, high = self.interval
        time = torch.as_tensor(t)
        inside = (time > low) & (time <= high)
        weights = [torch.where(inside, weight, 1.0) for weight in self.weights]
        bounded = [torch.ones(()), *weights, torch.zeros(())]
        return [w - w_next for w, w_next in pairwise(bounded)]

    def needed(self, factors: Sequence[Tensor]) -> list[int]:
        """The estimates of the chain that must be computed."""
        last = len(factors) - 1
        return [i for i, factor in enumerate(factors) if bool(factor.any()) or (self.rescale and i == last)]

    def __call__(self, x_t: Tensor, t: Time, cond: Cond | None = None) -> Prediction:
        """The guided estimates at x_t; the conditions are those of the chain, so `cond` must be None."""
        if cond is not None:
            raise ConfigurationError("a guided denoiser holds its conditions; pass cond=None")
        factors = self.factors(t)
        used = self.needed(factors)
        predictions = self._estimates(x_t, t, used)
        if len(used) == 1:
            return predictions[0]
        scales = [expand(factors[i], x_t) for i in used]
        x_0 = torch.stack([s * p.x_0 for s, p in zip(scales, predictions, strict=True)]).sum(0)
        eps = torch.stack([s * p.eps for s, p in zip(scales, predictions, strict=True)]).sum(0)
        if self.rescale:
            x_0 = rescaled(x_0, predictions[-1].x_0, self.rescale)
            eps = eps_from_x_0(x_t, x_0, self.schedule.signal(t), self.schedule.noise(t))
        return Prediction(x_0, eps, predictions[-1].variance_fraction)

    def _estimates(self, x_t: Tensor, t: Time, used: Sequence[int]) -> list[Prediction]:
        """The estimates of these parts of the chain, as one batch."""
        k, n = len(used), len(x_t)
        if k == 1:
            return [self.denoiser(x_t, t, self.chain[used[0]])]
        times = t.repeat(k) if isinstance(t, Tensor) and t.ndim else t
        together = self.denoiser(x_t.repeat(k, *[1] * (x_t.ndim - 1)), times, stack([self.chain[i] for i in used]))
        fraction = together.variance_fraction
        return [
            Prediction(
                together.x_0[i * n : (i + 1) * n],
                together.eps[i * n : (i + 1) * n],
                None if fraction is None else fraction[i * n : (i + 1) * n],
            )
            for i in range(k)
        ]


def rescaled(guided: Tensor, plain: Tensor, strength: float) -> Tensor:
    """guided (N, ...) with the standard deviation of each item drawn towards that of `plain`: strength 0 not at all, 1 fully."""
    deviation = guided.flatten(1).std(1).clamp(min=1e-8)
    factor = strength * plain.flatten(1).std(1) / deviation + (1 - strength)
    return guided * expand(factor, guided)


class ClassifierGuided:
    """Classifier guidance (Dhariwal & Nichol 2021, algorithm 2): eps_hat - w b grad log p(y | x_t), the gradient taken at x_t.

    log_probability(x_t (N, ...), t) -> (N,): log p(y | x_t) of the y that is wanted, by a classifier of noisy pictures; t as the
    sampler gives it, in [0, 1]. x_0_hat follows from eps_hat: x_0 + w b^2 / a grad; at a = 0, where x_t says nothing of y, it stays.
    """

    def __init__(
        self, denoiser: DenoiserLike, log_probability: Callable[[Tensor, Time], Tensor], weight: float = 1.0
    ) -> None:
        self.denoiser, self.log_probability, self.weight = denoiser, log_probability, weight

    @property
    def schedule(self) -> Schedule:
        """The schedule of the wrapped denoiser."""
        return self.denoiser.schedule

    def __call__(self, x_t: Tensor, t: Time, cond: Cond | None = None) -> Prediction:
        """The guided estimates at x_t."""
        prediction = self.denoiser(x_t, t, cond)
        if self.weight == 0:
            return prediction
        a, b = (expand(c, x_t) for c in (self.schedule.signal(t), self.schedule.noise(t)))
        gradient = self.weight * self._gradient(x_t, t)
        x_0 = prediction.x_0 + torch.where(a > 0, b**2 / a.clamp(min=1e-12) * gradient, 0.0)
        return Prediction(x_0, prediction.eps - b * gradient, prediction.variance_fraction)

    @torch.enable_grad()
    def _gradient(self, x_t: Tensor, t: Time) -> Tensor:
        x = x_t.detach().requires_grad_()
        log_p = self.log_probability(x, t)
        if log_p.shape != (len(x_t),):
            raise ConfigurationError(
                f"the classifier must give log p(y | x_t) of shape ({len(x_t)},), got {tuple(log_p.shape)}"
            )
        return torch.autograd.grad(log_p.sum(), x)[0]

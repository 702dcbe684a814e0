"""The contract that everything meets at: denoiser(x_t, t, cond) -> Prediction(x_0, eps).

Networks sit below it. Samplers, guidance and likelihood sit above it and see nothing but the denoiser and its schedule.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import fields
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from ..conditions.base import Encoders
from ..errors import ConfigurationError
from ..networks.cond import Cond
from ..settings.base import DiffusionSettings
from .parameterization import Prediction, predict
from .schedule import Schedule, Time

LOG_SNR_LIMIT = 20.0


class DenoiserLike(Protocol):
    """All that samplers, guidance and likelihood may ask for: trained, exact, guided and clipped denoisers alike."""

    @property
    def schedule(self) -> Schedule:
        """The schedule that x_t follows."""

    def __call__(self, x_t: Tensor, t: Time, cond: Cond | None = None) -> Prediction:
        """The estimates of x_0 and eps at x_t (N, ...), t in (0, 1] a number or (N,)."""


class Denoiser(nn.Module):
    """A network with its encoders, schedule and parameterization.

    The network is any module with the signature network(x (N, C, ...), time (N,), cond: Cond) -> (N, C or 2C, ...); it has
    2C channels when the variance is learned. This class alone knows what `time` means to it:

    time="step": the table's index, t T - 1 (0 at the first step; fractional between steps), as in DDPM's code.
    time="log_snr": 25 (20 - log-SNR), log-SNR clamped to [-20, 20]: it spans 0..1000 as the steps of a usual table do and
    grows with the noise, so that one sinusoidal embedding resolves both.

    Raises ConfigurationError for eps prediction with zero terminal SNR (x_0 = (x_t - b eps) / a would divide by zero),
    for time="step" without a table, and for a learned variance without a table.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        settings: DiffusionSettings | None = None,
        encoders: Encoders | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.encoders = encoders or Encoders({})
        self.schedule = schedule
        self.settings = settings or DiffusionSettings()
        check_combination(self.settings, schedule)

    def encode(self, values: Mapping[str, Any], n: int, drop: Mapping[str, Tensor] | None = None) -> Cond:
        """The encoded conditions of n pictures, on the network's device; what is not given takes its null value."""
        cond: Cond = self.encoders(values, n, drop)
        device = next(self.network.parameters()).device
        moved = {f.name: getattr(cond, f.name) for f in fields(cond)}
        return Cond(**{name: None if door is None else door.to(device) for name, door in moved.items()})

    def network_time(self, t: Time, x: Tensor) -> Tensor:
        """What the network is told about t, as (N,) float32 on x's device."""
        if self.settings.time == "step":
            time = torch.as_tensor(t, dtype=torch.float64) * (self.schedule.steps or 0) - 1
        else:
            time = 25 * (LOG_SNR_LIMIT - self.schedule.log_snr(t).clamp(-LOG_SNR_LIMIT, LOG_SNR_LIMIT))
        return time.float().to(x.device).expand(len(x))

    def output(self, x_t: Tensor, t: Time, cond: Cond | None = None) -> tuple[Tensor, Tensor | None]:
        """The network's raw output at x_t, float32, split into its mean part and the variance fraction (None if not learned)."""
        output = self.network(x_t, self.network_time(t, x_t), cond or Cond()).float()
        if not self.settings.learned_variance:
            return output, None
        mean, variance = output.chunk(2, dim=1)
        return mean, (variance + 1) / 2

    def with_network(self, network: nn.Module) -> Self:
        """The same denoiser around another network, such as another way to compute this one (`engine.ways`); all else is shared."""
        denoiser = copy(self)
        denoiser._modules = dict(self._modules)
        denoiser.network = network
        return denoiser

    def forward(self, x_t: Tensor, t: Time, cond: Cond | None = None) -> Prediction:
        """The estimates of x_0 and eps at x_t (N, C, ...), float32; t in (0, 1], a number or (N,)."""
        output, fraction = self.output(x_t, t, cond)
        return predict(self.settings.prediction, output, x_t, self.schedule.signal(t), self.schedule.noise(t), fraction)


def check_combination(settings: DiffusionSettings, schedule: Schedule) -> None:
    """Raise ConfigurationError for a prediction or a time that the schedule cannot serve."""
    if settings.prediction == "eps" and float(schedule.alpha_bar(1.0)) == 0:
        raise ConfigurationError(
            "eps prediction cannot start from zero terminal SNR: x_0 = (x_t - b eps) / a divides by a = 0; "
            "use diffusion.prediction=v or x_0, or a schedule with beta_T < 1"
        )
    if schedule.steps is None and settings.time == "step":
        raise ConfigurationError("a continuous schedule has no step numbers; use diffusion.time=log_snr")
    if schedule.steps is None and settings.learned_variance:
        raise ConfigurationError(
            "a learned variance needs a table of steps; use another schedule.kind or diffusion.learned_variance=false"
        )

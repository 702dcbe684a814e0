"""Noise schedules: how much of the picture is left at each time.

Every process here has the form x_t = a_t x_0 + b_t eps with a_t^2 + b_t^2 = 1 (variance preserving), so a schedule is the
pair (a_t, b_t), and alpha_bar_t = a_t^2. Time is a real number in [0, 1]: 0 is clean data, 1 the most noise.
A table of T betas is the grid t = k / T, k = 0..T, with alpha_bar_0 = 1.

All tables and all results are float64 on the CPU; `gaussian.expand` casts them where they meet a picture.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..errors import ConfigurationError
from ..settings.base import ScheduleSettings

Time = float | Tensor

KEPT_TIMES = 4096
BETA_CAP = 0.999  # Nichol & Dhariwal 2021, after eq. 17: keeps the last steps of a cosine table from being singular


class Schedule(ABC):
    """The pair (a_t, b_t) at any real t in [0, 1]. `steps` is T for a table and None for a continuous schedule."""

    steps: int | None = None

    @abstractmethod
    def alpha_bar(self, t: Time) -> Tensor:
        """alpha_bar_t in [0, 1], the share of the variance that is signal. Float64, shape of t."""

    @abstractmethod
    def noise_variance(self, t: Time) -> Tensor:
        """1 - alpha_bar_t in [0, 1], computed without cancellation near t = 0. Float64, shape of t."""

    def signal(self, t: Time) -> Tensor:
        """a_t = sqrt(alpha_bar_t)."""
        return self.alpha_bar(t).sqrt()

    def noise(self, t: Time) -> Tensor:
        """b_t = sqrt(1 - alpha_bar_t)."""
        return self.noise_variance(t).sqrt()

    def snr(self, t: Time) -> Tensor:
        """SNR_t = a_t^2 / b_t^2, infinite at t = 0 (Kingma et al. 2021, eq. 2)."""
        return self.alpha_bar(t) / self.noise_variance(t)

    def log_snr(self, t: Time) -> Tensor:
        """log SNR_t, falling with t, +inf at t = 0, and -inf at t = 1 if the terminal SNR is zero."""
        return self.alpha_bar(t).log() - self.noise_variance(t).log()

    @abstractmethod
    def time(self, log_snr: Time) -> Tensor:
        """The t at which the log-SNR has this value, the inverse of `log_snr`; 1 for a value below that of t = 1. Float64."""


class TableSchedule(Schedule):
    """The schedule of DDPM: T preset betas (Ho et al. 2020, eq. 2).

    Attributes, float64 on the CPU:
        beta (T,): beta_1..beta_T. Index 0 is step t = 1.
        alpha (T,): alpha_t = 1 - beta_t.
        alpha_bars (T + 1,): alpha_bar_0 = 1, alpha_bar_t = alpha_t alpha_bar_{t-1}. Index k is step k.

    Between the grid points t = k / T the log-SNR is interpolated linearly. In the first interval it would start from
    +inf (and in the last one end at -inf when the terminal SNR is zero); there alpha_bar itself is interpolated linearly.

    Raises ConfigurationError if a beta is outside (0, 1); 1 is allowed for the last one only (zero terminal SNR).
    """

    steps: int

    def __init__(self, betas: Tensor | Sequence[float]) -> None:
        self.beta = torch.as_tensor(betas, dtype=torch.float64, device="cpu").clone()
        check_betas(self.beta)
        self.steps = len(self.beta)
        self.alpha = 1 - self.beta
        self.alpha_bars = torch.cat([torch.ones(1, dtype=torch.float64), self.alpha.cumprod(0)])
        self._log_snrs = self.alpha_bars.log() - torch.log1p(-self.alpha_bars)
        self._known: dict[tuple[float, int], Tensor] = {}  # a sampler asks for the same few times again and again

    def alpha_bar(self, t: Time) -> Tensor:
        """alpha_bar at real t; exactly the table's value at t = k / T."""
        return self._at(t, sign=1)

    def noise_variance(self, t: Time) -> Tensor:
        """1 - alpha_bar at real t; exactly the table's value at t = k / T."""
        return self._at(t, sign=-1)

    def time(self, log_snr: Time) -> Tensor:
        """By the same interpolation: in the log-SNR, or in alpha_bar where the log-SNR has no finite end."""
        value = torch.as_tensor(log_snr, dtype=torch.float64)
        below = torch.searchsorted(-self._log_snrs, -value).clamp(1, self.steps) - 1
        left, right = self._log_snrs[below], self._log_snrs[below + 1]
        curved = left.isfinite() & right.isfinite()
        by_log_snr = (left - value) / (left - right)
        by_alpha_bar = (self.alpha_bars[below] - torch.sigmoid(value)) / (
            self.alpha_bars[below] - self.alpha_bars[below + 1]
        )
        first = torch.sigmoid(-value) / (1 - self.alpha_bars[1])  # without cancellation next to clean data
        fraction = torch.where(curved, by_log_snr, torch.where(below == 0, first, by_alpha_bar))
        return (below + fraction.clamp(0, 1)) / self.steps

    def _at(self, t: Time, sign: int) -> Tensor:
        """alpha_bar for sign 1, 1 - alpha_bar for sign -1."""
        if isinstance(t, Tensor) and t.ndim:
            return self._interpolate(t, sign)
        key = float(t), sign
        value = self._known.get(key)  # once, as another thread may clear them at any time
        if value is None:
            if len(self._known) >= KEPT_TIMES:
                self._known.clear()
            value = self._known[key] = self._interpolate(key[0], sign)
        return value.clone()

    def _interpolate(self, t: Time, sign: int) -> Tensor:
        """sigmoid(sign * log-SNR) between grid points where both ends are finite; elsewhere linear in the table."""
        table = self.alpha_bars if sign > 0 else 1 - self.alpha_bars
        position = check_time(t) * self.steps
        grid = position.round()
        position = torch.where((position - grid).abs() < 1e-9 * self.steps, grid, position)  # k / T * T is not always k
        below = position.floor().clamp(max=self.steps - 1).long()
        fraction = position - below
        left, right = self._log_snrs[below], self._log_snrs[below + 1]
        curved = left.isfinite() & right.isfinite() & (fraction > 0) & (fraction < 1)
        log_snr = torch.lerp(left.nan_to_num(), right.nan_to_num(), fraction)
        return torch.where(curved, torch.sigmoid(sign * log_snr), torch.lerp(table[below], table[below + 1], fraction))


class ContinuousCosineSchedule(Schedule):
    """alpha_bar_t = cos^2(pi s / 2) with s between two small margins, for any real t; log-SNR is -2 log tan(pi s / 2).

    The margins keep the log-SNR within [-max_log_snr, max_log_snr] on (0, 1]; t = 0 is clean data all the same.
    Source: the cosine schedule of Nichol & Dhariwal 2021 in the continuous form of Hoogeboom et al. 2023, eq. 4.
    """

    def __init__(self, max_log_snr: float = 12.0) -> None:
        self.margin = 2 / math.pi * math.atan(math.exp(-max_log_snr / 2))

    def time(self, log_snr: Time) -> Tensor:
        """From the angle atan(e^(-log-SNR / 2)); what lies beyond the margins is put onto them."""
        value = torch.as_tensor(log_snr, dtype=torch.float64)
        angle = torch.atan(torch.exp(-value / 2)) * 2 / math.pi
        return ((angle - self.margin) / (1 - 2 * self.margin)).clamp(0, 1)

    def _angle(self, t: Time) -> Tensor:
        t = check_time(t)
        return torch.where(t == 0, 0.0, math.pi / 2 * (self.margin + t * (1 - 2 * self.margin)))

    def alpha_bar(self, t: Time) -> Tensor:
        """cos^2 of the angle."""
        return self._angle(t).cos() ** 2

    def noise_variance(self, t: Time) -> Tensor:
        """sin^2 of the angle."""
        return self._angle(t).sin() ** 2


def linear_betas(steps: int, beta_start: float = 1e-4, beta_end: float = 0.02) -> Tensor:
    """beta_t linear from beta_start to beta_end at T = 1000, both scaled by 1000 / T for another T (Ho et al. 2020, sec. 4).

    Raises ConfigurationError if the scaled last beta reaches 1 (T <= 20 with the default values).
    """
    scale = check_linear_scale("linear", steps, beta_end)
    return torch.linspace(scale * beta_start, scale * beta_end, steps, dtype=torch.float64)


def scaled_linear_betas(steps: int, beta_start: float = 8.5e-4, beta_end: float = 0.012) -> Tensor:
    """sqrt(beta_t) linear between the roots of both ends, scaled by 1000 / T as `linear_betas` is.

    The schedule of latent diffusion (Rombach et al. 2022), which its code calls "linear" and diffusers "scaled_linear".
    """
    scale = check_linear_scale("scaled_linear", steps, beta_end)
    return scale * torch.linspace(beta_start**0.5, beta_end**0.5, steps, dtype=torch.float64) ** 2


def cosine_betas(steps: int, offset: float = 0.008, cap: float = BETA_CAP) -> Tensor:
    """alpha_bar_t = f(t) / f(0), f(t) = cos^2((t + offset) / (1 + offset) pi / 2), t in [0, 1] (Nichol & Dhariwal 2021, eq. 17)."""
    return betas_from_alpha_bar(lambda t: torch.cos((t + offset) / (1 + offset) * math.pi / 2) ** 2, steps, cap)


def sigmoid_betas(steps: int, start: float = -3.0, end: float = 3.0, tau: float = 1.0, cap: float = BETA_CAP) -> Tensor:
    """alpha_bar_t falls from 1 to 0 along -sigmoid((start + t (end - start)) / tau), t in [0, 1] (Jabri et al. 2022, fig. 13).

    Not what diffusers calls "sigmoid" (there beta_t is a sigmoid of t).
    """
    last = torch.sigmoid(torch.tensor(end / tau, dtype=torch.float64))
    return betas_from_alpha_bar(lambda t: last - torch.sigmoid((start + t * (end - start)) / tau), steps, cap)


def betas_from_alpha_bar(alpha_bar: Callable[[Tensor], Tensor], steps: int, cap: float = BETA_CAP) -> Tensor:
    """beta_t = min(1 - alpha_bar(t) / alpha_bar(t - 1), cap) on the grid t = k / T. Shape (T,)."""
    values = alpha_bar(torch.linspace(0, 1, steps + 1, dtype=torch.float64))
    return (1 - values[1:] / values[:-1]).clamp(max=cap)


def rescale_zero_terminal_snr(betas: Tensor) -> Tensor:
    """Shift and scale sqrt(alpha_bar) so that it ends at exactly 0 and starts where it did (Lin et al. 2024, algorithm 1).

    betas (T,), T >= 2, float64; returns (T,) whose last value is exactly 1.
    """
    if len(betas) < 2:
        raise ConfigurationError(f"zero terminal SNR needs T >= 2 steps, got {len(betas)}")
    root = (1 - betas).cumprod(0).sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    alpha_bar = torch.cat([torch.ones(1, dtype=betas.dtype), root**2])
    return 1 - alpha_bar[1:] / alpha_bar[:-1]


def build_schedule(settings: ScheduleSettings) -> Schedule:
    """The schedule that the settings describe. Raises ConfigurationError for values that no schedule can have."""
    if settings.kind == "continuous_cosine":
        return ContinuousCosineSchedule()
    betas = table_betas(settings)
    return TableSchedule(rescale_zero_terminal_snr(betas) if settings.zero_terminal_snr else betas)


def table_betas(settings: ScheduleSettings) -> Tensor:
    """The beta table of the settings before a rescaling. Shape (T,)."""
    match settings.kind:
        case "linear":
            return linear_betas(settings.steps, settings.beta_start, settings.beta_end)
        case "scaled_linear":
            return scaled_linear_betas(settings.steps, settings.beta_start, settings.beta_end)
        case "cosine":
            return cosine_betas(settings.steps)
        case "sigmoid":
            return sigmoid_betas(settings.steps)
        case "custom":
            betas = torch.tensor(settings.betas, dtype=torch.float64)
            check_betas(betas)
            return betas
        case _:
            raise ConfigurationError(f"schedule.kind {settings.kind!r} has no beta table")


def check_betas(betas: Tensor) -> None:
    """Raise ConfigurationError unless betas are (T,), T >= 1, each in (0, 1), the last one in (0, 1]."""
    if betas.ndim != 1 or len(betas) == 0:
        raise ConfigurationError(f"betas must be a list of T >= 1 numbers, got shape {tuple(betas.shape)}")
    bad = ~((betas > 0) & (betas < 1))
    bad[-1] = not 0 < float(betas[-1]) <= 1
    if bad.any():
        k = int(bad.nonzero()[0])
        raise ConfigurationError(
            f"beta must lie in (0, 1), and may be 1 at t = T only; got beta_{k + 1} = {float(betas[k]):g} of {len(betas)}"
        )


def check_linear_scale(kind: str, steps: int, beta_end: float) -> float:
    """1000 / T, or ConfigurationError if it would bring the last beta to 1 or above."""
    scale = 1000 / steps
    if scale * beta_end >= 1:
        raise ConfigurationError(
            f"the {kind} schedule scales its betas by 1000 / T; at T = {steps} the last one is {scale * beta_end:g}, "
            f"but must stay below 1: use more than {math.floor(1000 * beta_end)} steps, or schedule.kind=cosine"
        )
    return scale


def check_time(t: Time) -> Tensor:
    """t as float64 on the CPU, or ConfigurationError if it leaves [0, 1]."""
    t = torch.as_tensor(t, dtype=torch.float64, device="cpu").detach()
    if not bool(((t >= 0) & (t <= 1)).all()):
        raise ConfigurationError(
            f"time must lie in [0, 1] (0 is clean data), got values in [{float(t.min())}, {float(t.max())}]"
        )
    return t

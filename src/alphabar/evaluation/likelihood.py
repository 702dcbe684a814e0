"""How likely real pictures are under a model, in bits per dimension: by the variational bound and by the probability-flow ODE.

The two belong to different models that share one network: the bound to the chain of Gaussians that ancestral sampling draws from,
the ODE to the flow that deterministic samplers follow. Neither bounds the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..diffusion.denoiser import DenoiserLike
from ..diffusion.gaussian import diffuse, kl_divergence
from ..diffusion.loss import bound_term
from ..diffusion.parameterization import Prediction, v_from_x_0_and_eps
from ..diffusion.schedule import Schedule, TableSchedule
from ..errors import ConfigurationError, DataError, unknown
from ..networks.cond import Cond
from ..randomness import normal_rows, uniform
from ..samplers.ancestral import VARIANCES
from ..samplers.grids import least_time, time_grid

BIN = 2 / 255
"""The width of an 8-bit level where pictures span [-1, 1]."""
LOWEST_LOG_SNR = -12.0
"""Where the ODE ends at the latest: beyond, x_t is N(0, I) to within 1e-5 bits per dimension for data in [-1, 1]."""
HELD = 0.5
"""The length, in log sigma, of the way below the first step: see `flow_grid`."""

OnStep = Callable[[], None]


def mean_and_error(values: Tensor) -> tuple[float, float | None]:
    """The mean of values (N,) and its standard error s / sqrt(N), s^2 = sum (value - mean)^2 / (N - 1); None for a single value."""
    error = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else None
    return float(values.mean()), error


def check_8_bit(x_0: Tensor) -> None:
    """Raise DataError unless x_0 holds 8-bit values k / 127.5 - 1, k = 0..255: bits per dimension count levels."""
    levels = (x_0.cpu().double() + 1) * 127.5
    if (
        bool(((levels - levels.round()).abs() > 1e-3).any())
        or float(levels.min()) < -0.5
        or float(levels.max()) > 255.5
    ):
        raise DataError(
            f"bits per dimension are of 8-bit pictures: expected values k / 127.5 - 1 for k = 0..255, got values in "
            f"[{float(x_0.min()):g}, {float(x_0.max()):g}] that are not; round them to levels, or take ode_log_density for other data"
        )


# The variational bound


@dataclass(frozen=True)
class Bound:
    """An upper bound of -log2 p(x_0) / D of N pictures, D numbers each, and its parts (Ho et al. 2020, eq. 5). Float64, in bits.

    prior (N,): KL(q(x_T | x_0) || N(0, I)). terms (N, T): the first is the decoder's, -log2 p(x_0 | x_1), and number k (from 1)
    KL(q(x_{k-1} | x_k, x_0) || p(x_{k-1} | x_k)).
    """

    prior: Tensor
    terms: Tensor

    @property
    def decoder(self) -> Tensor:
        """-log2 p(x_0 | x_1), (N,)."""
        return self.terms[:, 0]

    @property
    def steps(self) -> Tensor:
        """The terms of the steps T..2 together, (N,)."""
        return self.terms[:, 1:].sum(1)

    @property
    def total(self) -> Tensor:
        """prior + steps + decoder, (N,)."""
        return self.prior + self.steps + self.decoder

    @staticmethod
    def join(parts: Sequence[Bound]) -> Bound:
        """The bounds of several batches as one."""
        return Bound(torch.cat([part.prior for part in parts]), torch.cat([part.terms for part in parts]))


@torch.no_grad()
def variational_bound(
    denoiser: DenoiserLike,
    x_0: Tensor,
    cond: Cond | None = None,
    *,
    steps: int | None = None,
    variance: str = "posterior",
    seed: int = 0,
    indices: Sequence[int] | None = None,
    on_step: OnStep | None = None,
) -> Bound:
    """The bound of 8-bit pictures x_0 (N, ...) in [-1, 1], under the chain that ancestral sampling with these steps draws from.

    p(x_s | x_t) = N(posterior_mean(x_0_hat(x_t), x_t), sigma^2), sigma^2 being "posterior", "beta" or "learned" as in
    `Ancestral`; the last step's is a probability of 8-bit levels (`discretized_log_likelihood`). Every term is computed, each
    with one draw of x_t, so a picture takes as many network calls as steps. Pass a `Clipped` denoiser to bound a model that
    clips. With fewer steps than T (a continuous schedule needs a number) it is the bound of another, coarser model.

    seed, indices (default 0..N-1): a picture's draws are a function of both and the step. on_step: called after each step.
    Raises DataError for other than 8-bit pictures, ConfigurationError for steps or a variance that cannot be.
    Source: Ho et al. 2020, eq. 5 and 13; Nichol & Dhariwal 2021, eq. 4 to 7.
    """
    check_8_bit(x_0)
    times = chain_times(denoiser.schedule, steps)
    chain = chain_table(denoiser.schedule, times)
    rows = list(range(len(x_0))) if indices is None else list(indices)
    terms = []
    for k in range(1, chain.steps + 1):
        eps = normal_rows(x_0.shape[1:], [(seed, "bound", i, k) for i in rows]).to(x_0)
        x_t = diffuse(x_0, chain.alpha_bars[k], eps)
        prediction = denoiser(x_t, times[k], cond)
        step = torch.full([len(x_0)], k / chain.steps, dtype=torch.float64)
        terms.append(bound_term(chain, x_0, prediction.x_0, x_t, step, variance_fraction(prediction, variance)))
        if on_step is not None:
            on_step()
    return Bound(prior_term(x_0, chain.alpha_bars[-1]), torch.stack(terms, 1).cpu().double())


def chain_times(schedule: Schedule, steps: int | None) -> Tensor:
    """0 = t_0 < ... < t_n = 1, (n + 1,): all of a table, or `steps` even strides of it, as ancestral sampling takes them."""
    wanted = schedule.steps if steps is None else steps
    if wanted is None:
        raise ConfigurationError(
            "a continuous schedule has no number of steps of its own: say how many the bound takes (--steps-bound)"
        )
    return time_grid("trailing", schedule, wanted).flip(0)


def chain_table(schedule: Schedule, times: Tensor) -> TableSchedule:
    """The table whose steps are the strides between these times: beta_k = 1 - alpha_bar(t_k) / alpha_bar(t_{k-1})."""
    alpha_bars = schedule.alpha_bar(times)
    return TableSchedule(1 - alpha_bars[1:] / alpha_bars[:-1])


def variance_fraction(prediction: Prediction, variance: str) -> Tensor:
    """The place of sigma^2 between the posterior's variance (0) and beta (1) in log space. Shape of x_0."""
    match variance:
        case "posterior":
            return torch.zeros_like(prediction.x_0)
        case "beta":
            return torch.ones_like(prediction.x_0)
        case "learned":
            if prediction.variance_fraction is None:
                raise ConfigurationError("the model did not learn its variance; use variance 'posterior' or 'beta'")
            return prediction.variance_fraction
        case _:
            raise unknown("variance", variance, VARIANCES)


def prior_term(x_0: Tensor, alpha_bar: Tensor) -> Tensor:
    """KL(N(sqrt(alpha_bar_T) x_0, (1 - alpha_bar_T) I) || N(0, I)) in bits per dimension, (N,) float64."""
    x, zero = x_0.cpu().double(), torch.zeros((), dtype=torch.float64)
    divergence = kl_divergence(alpha_bar.sqrt() * x, torch.log1p(-alpha_bar), zero, zero)
    return divergence.flatten(1).mean(1) / math.log(2)


# The probability-flow ODE


@dataclass(frozen=True)
class FlowGrid:
    """The way of the ODE from data to noise in K steps. times (K + 1,): those of its points. clock (K,): how far each step goes in
    log sigma. angle (K,): how far it goes in phi = arctan(sigma). Float64.
    """

    times: Tensor
    clock: Tensor
    angle: Tensor


def flow_grid(schedule: Schedule, steps: int) -> FlowGrid:
    """Points evenly spaced in log sigma (half the log-SNR), from clean data to t = 1 or to a log-SNR of -12 if that comes first.

    No model has seen less noise than that of its first step (step 1 of a table, t = 0.001 of a continuous schedule), at angle f.
    Below it v_hat(phi) = (phi / f) v_hat(f) is taken: right but for O(f^4) where data are smooth, as v is odd in phi. The way from
    0 to f is then one at the first step itself: f / 2 in phi, as the mean of phi / f is 1/2, and 1/2 in log sigma.
    """
    first = least_time(schedule)
    clean, noisy = -schedule.log_snr(first) / 2, -schedule.log_snr(1.0).clamp(min=LOWEST_LOG_SNR) / 2
    held = max(1, round(steps * HELD / (HELD + float(noisy - clean))))
    log_sigma = torch.lerp(clean, noisy, torch.linspace(0, 1, steps - held + 1, dtype=torch.float64))
    phi = log_sigma.exp().atan()
    times = torch.cat([torch.full([held], first, dtype=torch.float64), schedule.time(-2 * log_sigma)])
    below = torch.full([held], HELD / held, dtype=torch.float64)
    return FlowGrid(times, torch.cat([below, log_sigma.diff()]), torch.cat([below * phi[0], phi.diff()]))


def ode_log_density(
    denoiser: DenoiserLike,
    x_0: Tensor,
    cond: Cond | None = None,
    *,
    steps: int = 100,
    probes: int | None = 1,
    seed: int = 0,
    indices: Sequence[int] | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """log p(x_0) (N,) in nats, float64, of x_0 (N, ...) under the flow dx = v_hat dphi, v = a eps - b x_0, phi = arctan(b / a):

    log p(x_0) = log N(x_1; 0, I) + int div v_hat dphi, where dphi = a b dlog sigma, sigma = b / a.

    x goes by Heun's method in phi, in which known pictures and pure noise both move evenly; the integral by the trapezoid rule in
    log sigma. Both are of order 2; a step takes two network calls and a backward pass for each probe. See `flow_grid` for the
    ends. Pass a denoiser that does not clip: a clipped one drives what lies outside of the range away from it.

    probes: random directions of each divergence, drawn anew at every point; None takes all D of them, exactly, for small D.
    seed, indices (default 0..N-1): a picture's directions are a function of both and the point. on_step: called after each step.
    Raises ConfigurationError for too few steps or probes.
    Source: Song et al. 2021b, eq. 39 and 40; Salimans & Ho 2022, app. D (the angle); Hutchinson 1990; Grathwohl et al. 2019.
    """
    check_ode(steps, probes)
    schedule, grid = denoiser.schedule, flow_grid(denoiser.schedule, steps)
    rows = list(range(len(x_0))) if indices is None else list(indices)

    def v_hat(x: Tensor, i: int) -> Tensor:
        a, b, said = schedule.signal(grid.times[i]), schedule.noise(grid.times[i]), denoiser(x, grid.times[i], cond)
        return v_from_x_0_and_eps(said.x_0, said.eps, a, b)

    def v_and_slope(x: Tensor, i: int) -> tuple[Tensor, Tensor]:
        """v_hat (N, ...) and a b div v_hat (N,) at point i."""
        along = directions(x, probes, [(seed, "probe", k, i) for k in rows])
        v, divergence = with_divergence(lambda x: v_hat(x, i), x, along)
        return v, schedule.signal(grid.times[i]) * schedule.noise(grid.times[i]) * divergence

    x, gain = x_0, torch.zeros(len(x_0), dtype=torch.float64)
    v, slope = v_and_slope(x, 0)
    for i, (clock, angle) in enumerate(zip(grid.clock.tolist(), grid.angle.tolist(), strict=True), start=1):
        with torch.no_grad():
            x = x + angle * (v + v_hat(x + angle * v, i)) / 2
        v, slope_next = v_and_slope(x, i)
        gain, slope = gain + clock * (slope + slope_next) / 2, slope_next
        if on_step is not None:
            on_step()
    return standard_normal_log_density(x) + gain


def check_ode(steps: int, probes: int | None) -> None:
    """Raise ConfigurationError for fewer than 2 steps (one below the first step of the model, one above) or fewer than 1 probe."""
    if steps < 2:
        raise ConfigurationError(f"the ODE needs at least 2 steps, got {steps}; 100 is usual")
    if probes is not None and probes < 1:
        raise ConfigurationError(f"the divergence needs at least 1 probe, got {probes}; None computes it exactly")


def standard_normal_log_density(x: Tensor) -> Tensor:
    """log N(x; 0, I) of x (N, ...), (N,) float64 on the CPU."""
    return -0.5 * (x.cpu().double().square() + math.log(2 * math.pi)).flatten(1).sum(1)


def directions(x: Tensor, probes: int | None, keys: Sequence[tuple[int | str, ...]]) -> Tensor:
    """v (K, N, ...) with sum_k v_k v_k^T = I, exactly (probes=None, K = D axes) or on average (signs / sqrt(K); one key a row)."""
    if probes is None:
        axes = torch.eye(x[0].numel(), dtype=x.dtype, device=x.device)
        return axes.reshape(-1, 1, *x.shape[1:]).expand(-1, *x.shape)
    drawn = normal_rows(x.shape[1:], [(*key, k) for k in range(probes) for key in keys])
    return torch.where(drawn < 0, -1.0, 1.0).reshape(probes, *x.shape).to(x) / math.sqrt(probes)


def with_divergence(field: Callable[[Tensor], Tensor], x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """field(x) (N, ...) and its divergence sum_k v_k^T J v_k (N,) float64 on the CPU, a backward pass for each v_k."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = field(x)
        divergence = torch.zeros(len(x), dtype=torch.float64)
        for k, v_k in enumerate(v, start=1):
            (gradient,) = torch.autograd.grad(value, x, v_k, retain_graph=k < len(v))
            divergence += (gradient * v_k).flatten(1).sum(1).cpu().double()
    return value.detach(), divergence


def dequantized(x_0: Tensor, seed: int = 0, indices: Sequence[int] | None = None) -> Tensor:
    """x_0 + (u - 1/2) 2/255, u uniform in [0, 1): a point of the bin that an 8-bit value is the middle of (Theis et al. 2016, sec. 3.1).

    As E_u[log p(x)] + log of the bin's volume is at most log P(bin), what follows is a bound for the 8-bit picture.
    """
    rows = range(len(x_0)) if indices is None else indices
    u = torch.stack([uniform(x_0.shape[1:], seed, "dequantize", i) for i in rows])
    return x_0 + ((u - 0.5) * BIN).to(x_0.dtype).to(x_0.device)


def bits_per_dimension(log_density: Tensor, dims: int) -> Tensor:
    """-log2 of the probability of an 8-bit bin by dimension, from the log density (N,) in nats of pictures in [-1, 1].

    P(bin) = p(x) (2/255)^D, so bits = -log p(x) / (D log 2) + log2(127.5).
    """
    return -log_density / (dims * math.log(2)) - math.log2(BIN)


def ode_bits(
    denoiser: DenoiserLike,
    x_0: Tensor,
    cond: Cond | None = None,
    *,
    steps: int = 100,
    probes: int | None = 1,
    seed: int = 0,
    indices: Sequence[int] | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """-log2 p / D (N,) of 8-bit pictures x_0 (N, ...), dequantized, under the probability-flow ODE; options of `ode_log_density`.

    Raises DataError for other than 8-bit pictures.
    """
    check_8_bit(x_0)
    x = dequantized(x_0, seed, indices)
    log_density = ode_log_density(
        denoiser, x, cond, steps=steps, probes=probes, seed=seed, indices=indices, on_step=on_step
    )
    return bits_per_dimension(log_density, x_0[0].numel())

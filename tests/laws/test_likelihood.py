"""Likelihoods of data whose density is known: the ODE's value is the exact one, the bound exceeds it by the chain's own divergence."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from alphabar.diffusion.denoiser import Denoiser
from alphabar.diffusion.gaussian import posterior_log_variances
from alphabar.diffusion.parameterization import Prediction, eps_from_x_0, target
from alphabar.diffusion.schedule import (
    ContinuousCosineSchedule,
    TableSchedule,
    cosine_betas,
    linear_betas,
    rescale_zero_terminal_snr,
)
from alphabar.errors import ConfigurationError, DataError
from alphabar.evaluation import likelihood
from alphabar.evaluation.likelihood import (
    Bound,
    bits_per_dimension,
    chain_table,
    chain_times,
    dequantized,
    flow_grid,
    mean_and_error,
    ode_bits,
    ode_log_density,
    prior_term,
    variational_bound,
)
from alphabar.samplers.clip import Clipped
from alphabar.settings.base import DiffusionSettings

from .exact import GaussianMixture, draw_mixture, gaussian

SCHEDULES = {
    "linear": TableSchedule(linear_betas(1000)),
    "cosine": TableSchedule(cosine_betas(200)),
    "short": TableSchedule(linear_betas(50)),
    "zero terminal SNR": TableSchedule(rescale_zero_terminal_snr(linear_betas(1000))),
    "continuous": ContinuousCosineSchedule(),
}
LEVELS = torch.arange(256, dtype=torch.float64) / 127.5 - 1
MEAN, DEVIATION = 0.1, 0.2  # hardly anything in the open outermost bins


def mixture(schedule) -> GaussianMixture:
    means = torch.tensor([[-1.0, 0.5], [0.8, -0.6], [0.0, 0.0]])
    return GaussianMixture(schedule, means, torch.tensor([0.2, 0.3, 0.4]), torch.tensor([0.3, 0.5, 0.2]))


def log_prob(data: GaussianMixture, x: Tensor) -> Tensor:
    """log p(x) (N,) in nats."""
    squared = ((x[:, None] - data.means) / data.deviations[:, None]).square().sum(-1)
    log_volume = x.shape[1] * (data.deviations.log() + 0.5 * math.log(2 * math.pi))
    return (data.weights.log() - 0.5 * squared - log_volume).logsumexp(1)


class Correlated:
    """x_0 ~ N(m, S) in D dimensions: E[x_0 | x_t] = m + a S (a^2 S + b^2 I)^-1 (x_t - a m)."""

    def __init__(self, schedule, dim: int = 4) -> None:
        g = torch.Generator().manual_seed(0)
        root = 0.4 * torch.randn(dim, dim, generator=g, dtype=torch.float64) + 0.3 * torch.eye(dim).double()
        self.schedule, self.mean, self.covariance = schedule, torch.linspace(-0.3, 0.3, dim).double(), root @ root.T

    def __call__(self, x_t, t, cond=None) -> Prediction:
        a, b = self.schedule.signal(t), self.schedule.noise(t)
        total = a**2 * self.covariance + b**2 * torch.eye(len(self.mean)).double()
        x_0 = self.mean + a * (x_t - a * self.mean) @ torch.linalg.solve(total, self.covariance)
        return Prediction(x_0, eps_from_x_0(x_t, x_0, a, b))

    @property
    def distribution(self):
        return torch.distributions.MultivariateNormal(self.mean, self.covariance)

    def draw(self, n: int) -> Tensor:
        z = torch.randn(n, len(self.mean), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        return self.mean + z @ torch.linalg.cholesky(self.covariance).T


def eight_bit(n: int, dim: int, mean: float = MEAN, deviation: float = DEVIATION, seed: int = 0) -> Tensor:
    """Draws of N(mean, deviation^2) rounded to 8-bit levels, float64."""
    x = mean + deviation * torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return ((x + 1) * 127.5).round().clamp(0, 255) / 127.5 - 1


def bin_probability(x: Tensor) -> Tensor:
    """P of the 8-bit level of x, the outermost being open, where numbers are N(MEAN, DEVIATION^2)."""
    cdf = torch.distributions.Normal(torch.tensor(MEAN).double(), DEVIATION).cdf
    upper = torch.where(x > 1 - 1 / 255, 1.0, cdf(x + 1 / 255))
    return upper - torch.where(x < -1 + 1 / 255, 0.0, cdf(x - 1 / 255))


def error_in_bits(found: Tensor, exact: Tensor, dims: int) -> Tensor:
    return (found - exact) / dims / math.log(2)


# the ODE


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("of", [lambda schedule: gaussian(schedule, 0.3, 0.4, 3), mixture], ids=["gaussian", "mixture"])
def test_the_ode_value_is_the_exact_log_density(name, of):
    """At 100 steps to 0.002 bits per dimension on the mean, and 0.02 for each."""
    data = of(SCHEDULES[name])
    x = draw_mixture(data, 60, 0)
    error = error_in_bits(ode_log_density(data, x, steps=100, probes=None), log_prob(data, x), x.shape[1])
    assert error.mean().abs() < 0.002
    assert error.abs().max() < 0.02


def test_the_ode_value_converges_with_order_two():
    data = mixture(SCHEDULES["cosine"])
    x = draw_mixture(data, 40, 0)
    errors = [float((ode_log_density(data, x, steps=k, probes=None) - log_prob(data, x)).mean()) for k in (20, 40, 80)]
    for error, half in pairwise(errors):
        assert math.log2(error / half) == pytest.approx(2, abs=0.2)


def test_of_correlated_data_random_directions_agree_with_all_of_them_on_average():
    """Off the diagonal a single direction errs, without bias: means agree within 5 standard errors, and more directions err less."""
    data = Correlated(SCHEDULES["cosine"])
    x = data.draw(200)
    exact = ode_log_density(data, x, steps=50, probes=None)
    assert error_in_bits(exact, data.distribution.log_prob(x), 4).abs().max() < 0.03
    one, many = (ode_log_density(data, x, steps=50, probes=probes) - exact for probes in (1, 8))
    for error in (one, many):
        assert error.std() > 0.01
        assert error.mean().abs() < 5 * error.std() / math.sqrt(200)
    assert many.std() / one.std() == pytest.approx(math.sqrt(1 / 8), rel=0.25)


def test_random_directions_are_exact_where_dimensions_do_not_mix():
    data = gaussian(SCHEDULES["cosine"], 0.3, 0.4, 5)
    x = draw_mixture(data, 4, 0)
    exact = ode_log_density(data, x, steps=20, probes=None)
    torch.testing.assert_close(ode_log_density(data, x, steps=20, probes=3), exact, rtol=1e-12, atol=1e-12)


class Watched:
    """Notes the times that it is asked at."""

    def __init__(self, denoiser) -> None:
        self.denoiser, self.schedule, self.times = denoiser, denoiser.schedule, []

    def __call__(self, x_t, t, cond=None) -> Prediction:
        self.times.append(float(t))
        return self.denoiser(x_t, t, cond)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_ode_asks_for_no_noise_that_the_model_has_not_seen(name):
    schedule = SCHEDULES[name]
    watched, done = Watched(gaussian(schedule)), []
    value = ode_log_density(watched, torch.zeros(1, 1).double(), steps=40, on_step=lambda: done.append(1))
    assert value.isfinite().all()
    assert min(watched.times) == pytest.approx(1 / (schedule.steps or 1000), rel=1e-9)
    assert schedule.log_snr(max(watched.times)) > -12.01
    assert len(watched.times) == 2 * 40 + 1
    assert len(done) == 40
    if name != "zero terminal SNR":
        assert max(watched.times) == pytest.approx(1, abs=1e-2)


def test_the_grid_goes_all_the_way_in_both_variables():
    """From clean data to t = 1: 1/2 and log sigma_T / sigma_1 in the clock; half the first angle and the rest in the angle."""
    schedule = SCHEDULES["linear"]
    grid = flow_grid(schedule, 50)
    sigma = schedule.noise(torch.tensor([1e-3, 1.0])) / schedule.signal(torch.tensor([1e-3, 1.0]))
    first, last = sigma.double().atan().tolist()
    assert float(grid.clock.sum()) == pytest.approx(0.5 + float((sigma[1] / sigma[0]).log()), rel=1e-6)
    assert float(grid.angle.sum()) == pytest.approx(first / 2 + last - first, rel=1e-6)
    assert (len(grid.times), len(grid.clock), len(grid.angle)) == (51, 50, 50)
    assert (grid.times.diff() > -1e-12).all()


class ExactNetwork(nn.Module):
    """Says what a perfect network of this kind would, told the table's index."""

    def __init__(self, kind: str, schedule: TableSchedule, dim: int) -> None:
        super().__init__()
        self.kind, self.schedule, self.data = kind, schedule, gaussian(schedule, 0.1, 0.3, dim)

    def forward(self, x, time, cond):
        t = (time[0].double() + 1) / self.schedule.steps
        said = self.data(x.double(), t)
        return target(self.kind, said.x_0, said.eps, self.schedule.signal(t), self.schedule.noise(t)).float()


@pytest.mark.parametrize("kind", ["eps", "x_0", "v"])
def test_a_network_of_any_prediction_has_the_likelihood_of_its_denoiser(kind):
    schedule = SCHEDULES["short"]
    denoiser = Denoiser(ExactNetwork(kind, schedule, 6), schedule, DiffusionSettings(prediction=kind))
    exact, x = gaussian(schedule, 0.1, 0.3, 6), eight_bit(5, 6)
    for measure in (lambda d, x: ode_bits(d, x, steps=30), lambda d, x: variational_bound(d, x).total):
        torch.testing.assert_close(measure(denoiser, x.float()), measure(exact, x), rtol=1e-4, atol=1e-4)


# from densities to bits


def test_a_uniform_density_over_all_bins_has_eight_bits():
    volume = torch.tensor([256 * 2 / 255]).log()
    torch.testing.assert_close(bits_per_dimension(-7 * volume, 7), torch.tensor([8.0]))


def test_the_ode_value_of_8_bit_data_is_that_of_their_bins():
    """The density hardly bends within a bin, so that its mean over places in the bin is the bin's probability, to 0.002 bits."""
    data = gaussian(SCHEDULES["linear"], MEAN, DEVIATION, 40)
    x = eight_bit(60, 40)
    bits, exact = ode_bits(data, x, steps=150), -bin_probability(x).log2().mean(1)
    assert float((bits - exact).mean()) == pytest.approx(0, abs=2e-3)


def test_dequantized_values_fill_their_own_bin_evenly():
    x = LEVELS.expand(50, -1)
    offset = (dequantized(x, seed=3) - x) * 127.5
    assert offset.abs().max() <= 0.5
    ordered = offset.flatten().sort().values
    assert (ordered - torch.linspace(-0.5, 0.5, len(ordered))).abs().max() < 1.6 / math.sqrt(len(ordered))  # Kolmogorov
    assert (dequantized(x, seed=4) != dequantized(x, seed=3)).any()


@pytest.mark.parametrize("measure", [variational_bound, ode_bits])
@pytest.mark.parametrize("x", [torch.full((2, 3), 0.5), LEVELS[None] * 1.5, LEVELS[None] + 2 / 255 * 200])
def test_other_than_8_bit_data_are_refused(measure, x):
    with pytest.raises(DataError, match=r"k / 127\.5 - 1 for k = 0\.\.255"):
        measure(gaussian(SCHEDULES["short"]), x)


# the bound


def expected_gap(chain: TableSchedule, variance: str) -> float:
    """KL(q(x_0..T) || p(x_0..T)) of N(MEAN, DEVIATION^2) in bits: of x_T, and of each reverse step, true against model variance."""
    ab, ab_prev, beta = chain.alpha_bars[1:], chain.alpha_bars[:-1], chain.beta
    left = DEVIATION**2 * (1 - ab) / (ab * DEVIATION**2 + 1 - ab)  # Var(x_0 | x_t)
    true = (1 - ab_prev) / (1 - ab) * beta + ab_prev * (beta / (1 - ab)) ** 2 * left
    model = {"posterior": posterior_log_variances(chain.alpha_bars).exp(), "beta": beta, "learned": true}[variance]
    last = ab[-1] * DEVIATION**2 + 1 - ab[-1]
    start = 0.5 * (last + ab[-1] * MEAN**2 - 1 - last.log())
    return float(start + 0.5 * (true / model - 1 - (true / model).log()).sum()) / math.log(2)


class TrueVariance:
    """The exact denoiser of the Gaussian with the fraction that makes each reverse variance the true one."""

    def __init__(self, schedule, chain: TableSchedule) -> None:
        self.exact, self.schedule, self.chain = gaussian(schedule, MEAN, DEVIATION), schedule, chain

    def __call__(self, x_t, t, cond=None) -> Prediction:
        said, chain = self.exact(x_t, t), self.chain
        k = int((chain.alpha_bars - self.schedule.alpha_bar(t)).abs().argmin())
        ab, ab_prev, beta = chain.alpha_bars[k], chain.alpha_bars[k - 1], chain.beta[k - 1]
        left = DEVIATION**2 * (1 - ab) / (ab * DEVIATION**2 + 1 - ab)
        true = (1 - ab_prev) / (1 - ab) * beta + ab_prev * (beta / (1 - ab)) ** 2 * left
        low, high = posterior_log_variances(chain.alpha_bars)[k - 1], beta.log()
        return Prediction(said.x_0, said.eps, torch.full_like(x_t, float((true.log() - low) / (high - low))))


@pytest.fixture
def even_noise(monkeypatch):
    """Each draw of noise is the same even grid of quantiles with variance 1, so that a mean over a row is one over the noise."""

    def rows(shape, keys):
        z = torch.special.ndtri((torch.arange(shape[0], dtype=torch.float64) + 0.5) / shape[0])
        return (z / z.square().mean().sqrt()).expand(len(keys), -1)

    monkeypatch.setattr(likelihood, "normal_rows", rows)


def gap(denoiser, variance: str, steps: int | None = None, points: int = 24) -> float:
    """The mean bound of 8-bit Gaussian data minus its entropy, exact but for the grid of noise: over all levels by their weight."""
    p = bin_probability(LEVELS)
    likely = p > 1e-9
    bound = variational_bound(denoiser, LEVELS[likely, None].expand(-1, points), variance=variance, steps=steps)
    return float((p[likely] * (bound.total + p[likely].log2())).sum())


@pytest.mark.parametrize("variance", ["posterior", "beta", "learned"])
@pytest.mark.parametrize("betas", [linear_betas, cosine_betas])
def test_the_bound_exceeds_the_entropy_by_the_divergence_of_the_chain_and_less_the_more_steps(
    variance, betas, even_noise
):
    """The closed form, to 1.5 % where the last variance is wider than a bin; with the true variances, nothing. Beta's gap falls as
    1 / T; the posterior's keeps the first steps' share (and of a cosine table first grows)."""
    found = []
    for steps in (40, 160, 640)[: 2 if variance == "learned" else 3]:
        schedule = TableSchedule(betas(steps))
        denoiser = gaussian(schedule, MEAN, DEVIATION) if variance != "learned" else TrueVariance(schedule, schedule)
        found.append(gap(denoiser, variance))
        if steps < 640:
            assert found[-1] == pytest.approx(expected_gap(schedule, variance), rel=0.015, abs=3e-4)
    assert min(found) > -1e-4
    if variance == "beta":
        assert found[0] > 3 * found[1] > 9 * found[2]
    if variance == "posterior":
        assert found[2] < 0.9 * min(found[:2])


@pytest.mark.parametrize("name", ["linear", "zero terminal SNR", "continuous"])
@pytest.mark.parametrize("steps", [7, 50])
def test_fewer_steps_bound_the_coarser_chain(name, steps, even_noise):
    schedule = SCHEDULES[name]
    chain = chain_table(schedule, chain_times(schedule, steps))
    for variance, denoiser in (
        ("beta", gaussian(schedule, MEAN, DEVIATION)),
        ("learned", TrueVariance(schedule, chain)),
    ):
        assert gap(denoiser, variance, steps) == pytest.approx(expected_gap(chain, variance), rel=0.01, abs=0.003)


def test_strides_of_a_table_are_a_table_of_their_own():
    """Twenty strides of a thousand steps, and the table of those twenty: the same draws, the same terms."""
    long, x = SCHEDULES["linear"], eight_bit(3, 8)
    short = chain_table(long, chain_times(long, 20))
    strided = variational_bound(gaussian(long, MEAN, DEVIATION), x, steps=20)
    own = variational_bound(gaussian(short, MEAN, DEVIATION), x)
    torch.testing.assert_close(strided.terms, own.terms, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(strided.prior, own.prior)


def test_random_noise_has_the_mean_of_the_even_grid():
    """2,000 pictures of one number each against the closed form, within 5 standard errors."""
    schedule = TableSchedule(linear_betas(40))
    x = eight_bit(2000, 1, seed=5)
    surplus = variational_bound(gaussian(schedule, MEAN, DEVIATION), x, variance="beta").total + bin_probability(
        x
    ).log2().mean(1)
    mean, error = mean_and_error(surplus)
    assert abs(mean - expected_gap(schedule, "beta")) < 5 * error


def test_the_parts_sum_to_the_total_and_join():
    """Of three steps, after which much of the picture is left, so that the prior's part counts."""
    exact, x = gaussian(TableSchedule([0.1, 0.2, 0.3]), MEAN, DEVIATION), eight_bit(4, 6)
    bound = variational_bound(exact, x)
    assert bound.terms.shape == (4, 3)
    assert (bound.prior > 0.01).all()
    torch.testing.assert_close(bound.total, bound.prior + bound.decoder + bound.steps)
    torch.testing.assert_close(bound.steps, bound.terms[:, 1:].sum(1))
    assert torch.equal(bound.decoder, bound.terms[:, 0])
    assert (bound.terms > 0).all()
    parts = Bound.join([Bound(bound.prior[:1], bound.terms[:1]), Bound(bound.prior[1:], bound.terms[1:])])
    assert torch.equal(parts.total, bound.total)


def test_the_prior_term_is_the_divergence_of_the_last_marginal():
    x, normal = eight_bit(3, 5), torch.distributions.Normal
    for alpha_bar in (torch.tensor(0.3).double(), torch.tensor(1e-9).double()):
        q = normal(alpha_bar.sqrt() * x, (1 - alpha_bar).sqrt())
        reference = torch.distributions.kl_divergence(q, normal(0.0, 1.0)).mean(1) / math.log(2)
        torch.testing.assert_close(prior_term(x, alpha_bar), reference, atol=1e-15, rtol=1e-6)
    assert (prior_term(x, torch.tensor(0.0).double()) == 0).all()


def test_a_table_of_one_step_has_a_decoder_only():
    schedule = TableSchedule([0.999])
    bound = variational_bound(gaussian(schedule, MEAN, DEVIATION), eight_bit(2, 3))
    assert bound.terms.shape == (2, 1)
    assert (bound.steps == 0).all()
    assert bound.total.isfinite().all()


def test_a_clipped_denoiser_bounds_the_clipping_model():
    """Of a denoiser that errs beyond the range, clipping takes the error away."""
    schedule, x = SCHEDULES["short"], torch.ones(2, 4)

    class Beyond:
        def __init__(self):
            self.schedule = schedule

        def __call__(self, x_t, t, cond=None):
            x_0 = torch.full_like(x_t, 1.5)
            return Prediction(x_0, eps_from_x_0(x_t, x_0, schedule.signal(t), schedule.noise(t)))

    assert (variational_bound(Clipped(Beyond()), x).steps.abs() < 1e-4).all()
    assert (variational_bound(Beyond(), x).steps > 1).all()


# both


@pytest.mark.parametrize("measure", [lambda *a, **k: variational_bound(*a, **k).total, ode_bits], ids=["bound", "ode"])
def test_a_picture_has_its_value_in_any_batch_by_its_index_and_the_seed(measure):
    data, x = Correlated(TableSchedule(linear_betas(30)), 6), eight_bit(5, 6)
    options = {} if measure is not ode_bits else {"steps": 12}
    together = measure(data, x, **options)
    parts = [measure(data, x[i : i + 2], indices=range(i, min(i + 2, 5)), **options) for i in (0, 2, 4)]
    torch.testing.assert_close(torch.cat(parts), together, rtol=1e-12, atol=1e-12)
    assert (measure(data, x, seed=1, **options) != together).all()
    assert (measure(data, x, indices=range(5, 10), **options) != together).all()


def test_every_step_and_point_has_its_own_draws(monkeypatch):
    keys = []
    real = likelihood.normal_rows
    monkeypatch.setattr(likelihood, "normal_rows", lambda shape, own: keys.extend(own) or real(shape, own))
    exact, x = gaussian(SCHEDULES["short"]), eight_bit(3, 2)
    variational_bound(exact, x)
    ode_bits(exact, x, steps=10, probes=2)
    assert len(keys) == 3 * 50 + 3 * 2 * 11
    assert len(set(keys)) == len(keys)


def test_the_standard_error_is_that_of_a_mean():
    values = torch.tensor([1.0, 2.0, 4.0, 9.0], dtype=torch.float64)
    mean, error = mean_and_error(values)
    assert mean == 4
    assert error == pytest.approx(math.sqrt((9 + 4 + 0 + 25) / 3) / 2)
    assert mean_and_error(values[:1]) == (1.0, None)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d, x: variational_bound(d, x, variance="learned"), "did not learn its variance"),
        (lambda d, x: variational_bound(d, x, variance="posteriour"), "did you mean 'posterior'"),
        (lambda d, x: variational_bound(d, x, steps=51), "at most 50"),
        (lambda d, x: variational_bound(gaussian(ContinuousCosineSchedule()), x), "say how many"),
        (lambda d, x: ode_bits(d, x, steps=1), "at least 2 steps, got 1"),
        (lambda d, x: ode_bits(d, x, probes=0), "at least 1 probe, got 0"),
    ],
)
def test_what_cannot_be_measured_says_so(call, message):
    with pytest.raises(ConfigurationError, match=message):
        call(gaussian(SCHEDULES["short"]), eight_bit(2, 2))

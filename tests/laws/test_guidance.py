"""Guidance against Gaussian-mixture data, where every guided score is known: scores are compared, not samples."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from alphabar.diffusion.gaussian import expand
from alphabar.diffusion.guidance import ClassifierGuided, Guided, rescaled
from alphabar.diffusion.parameterization import Prediction, eps_from_x_0
from alphabar.diffusion.schedule import Schedule, Time, build_schedule
from alphabar.errors import ConfigurationError
from alphabar.networks.cond import Cond
from alphabar.samplers.clip import Clipped
from alphabar.settings.base import ScheduleSettings

SCHEDULES = {
    "linear": ScheduleSettings(),
    "cosine": ScheduleSettings(kind="cosine"),
    "continuous": ScheduleSettings(kind="continuous_cosine"),
}
MEANS = torch.tensor([[-1.5, -1.0], [-1.2, 1.1], [1.0, -0.9], [1.4, 1.3], [0.0, 0.2]], dtype=torch.float64)
DEVIATIONS = torch.tensor([0.3, 0.5, 0.4, 0.2, 0.6], dtype=torch.float64)
WEIGHTS = torch.tensor([0.3, 0.2, 0.15, 0.25, 0.1], dtype=torch.float64)
LEFT = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.5], dtype=torch.float64)  # p(left | component)
LOW = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.3], dtype=torch.float64)
EVERYTHING = torch.ones(5, dtype=torch.float64)


class ConditionalMixture:
    """The exact denoiser of p(x | y), cond.vector (N, K) being p(y | component); counts how often and on how many it is asked."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule, self.batches = schedule, list[int]()

    def __call__(self, x_t: Tensor, t: Time, cond: Cond | None = None) -> Prediction:
        self.batches.append(len(x_t))
        assert cond is not None
        assert cond.vector is not None
        a, b = (expand(c, x_t) for c in (self.schedule.signal(t), self.schedule.noise(t)))
        with torch.enable_grad():
            x = x_t.detach().double().requires_grad_()
            score = torch.autograd.grad(log_density(self.schedule, x, t, cond.vector).sum(), x)[0]
        eps = -b * score
        return Prediction((x_t - b * eps) / a, eps, torch.full_like(x_t, 0.25) * cond.vector.sum(1, keepdim=True))


def log_density(schedule: Schedule, x: Tensor, t: Time, likelihood: Tensor) -> Tensor:
    """log p(x_t, y) (N,) up to a constant: components weighted by their prior times p(y | component), likelihood (N, K)."""
    a, b = (torch.as_tensor(c, dtype=torch.float64).reshape(-1, 1) for c in (schedule.signal(t), schedule.noise(t)))
    variance = a**2 * DEVIATIONS**2 + b**2
    residual = x[:, None] - a[..., None] * MEANS
    log_p = (WEIGHTS * likelihood).log() - 0.5 * (residual**2).sum(-1) / variance - x.shape[-1] / 2 * variance.log()
    return log_p.logsumexp(1)


def score(schedule: Schedule, x: Tensor, t: Time, likelihood: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    return torch.autograd.grad(log_density(schedule, x, t, likelihood.expand(len(x), -1)).sum(), x)[0]


def condition(likelihood: Tensor, n: int) -> Cond:
    return Cond(vector=likelihood.expand(n, -1))


@pytest.fixture
def x() -> Tensor:
    return torch.randn(40, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 1.5


def chain(n: int) -> list[Cond]:
    """Nothing known, left, left and low."""
    return [condition(EVERYTHING, n), condition(LEFT, n), condition(LEFT * LOW, n)]


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("w", [0.0, 0.5, 1.0, 3.0])
def test_one_condition_is_u_plus_w_times_the_difference_of_scores(name, t, w, x):
    schedule = build_schedule(SCHEDULES[name])
    guided = Guided(ConditionalMixture(schedule), chain(len(x))[:2], [w])(x, t)
    u, c = score(schedule, x, t, EVERYTHING), score(schedule, x, t, LEFT)
    torch.testing.assert_close(-guided.eps / expand(schedule.noise(t), x), u + w * (c - u), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("weights", [(0.0, 0.0), (1.0, 1.0), (2.0, 1.0), (1.0, 4.0), (3.0, 0.0), (0.5, 2.5)])
def test_several_conditions_nest(weights, x):
    schedule, t = build_schedule(SCHEDULES["cosine"]), 0.4
    guided = Guided(ConditionalMixture(schedule), chain(len(x)), weights)(x, t)
    u, c_1, c_12 = (score(schedule, x, t, y) for y in (EVERYTHING, LEFT, LEFT * LOW))
    wanted = u + weights[0] * (c_1 - u) + weights[1] * (c_12 - c_1)
    torch.testing.assert_close(-guided.eps / expand(schedule.noise(t), x), wanted, rtol=1e-6, atol=1e-8)
    eps = eps_from_x_0(x, guided.x_0, schedule.signal(t), schedule.noise(t))
    torch.testing.assert_close(guided.eps, eps, rtol=1e-6, atol=1e-8)


def test_weights_of_one_are_the_joint_conditional_exactly_and_cost_one_evaluation(x):
    denoiser = ConditionalMixture(build_schedule(SCHEDULES["linear"]))
    plain = denoiser(x, 0.3, chain(len(x))[-1])
    guided = Guided(denoiser, chain(len(x)), [1.0, 1.0])(x, 0.3)
    assert torch.equal(guided.eps, plain.eps)
    assert torch.equal(guided.x_0, plain.x_0)
    assert denoiser.batches == [40, 40]


def test_weights_of_zero_are_unconditional_exactly(x):
    denoiser = ConditionalMixture(build_schedule(SCHEDULES["linear"]))
    assert torch.equal(
        Guided(denoiser, chain(len(x)), [0.0, 0.0])(x, 0.3).eps, denoiser(x, 0.3, condition(EVERYTHING, 40)).eps
    )


@pytest.mark.parametrize(
    ("weights", "evaluations"), [((3.0, 3.0), 2), ((3.0, 1.0), 3), ((1.0, 3.0), 2), ((0.0, 2.0), 3)]
)
def test_all_that_is_needed_goes_through_the_network_as_one_batch(weights, evaluations, x):
    denoiser = ConditionalMixture(build_schedule(SCHEDULES["linear"]))
    Guided(denoiser, chain(len(x)), weights)(x, 0.3)
    assert denoiser.batches == [evaluations * 40]


def test_each_picture_may_have_its_own_weight_and_time(x):
    schedule = build_schedule(SCHEDULES["cosine"])
    weights, times = torch.linspace(0, 4, 40), torch.linspace(0.05, 0.95, 40, dtype=torch.float64)
    together = Guided(ConditionalMixture(schedule), chain(40)[:2], [weights])(x, times)
    for i in (0, 10, 39):
        alone = Guided(ConditionalMixture(schedule), chain(1)[:2], [float(weights[i])])(x[i : i + 1], float(times[i]))
        torch.testing.assert_close(together.eps[i : i + 1], alone.eps, rtol=1e-5, atol=1e-6)


def test_guidance_works_only_inside_its_interval(x):
    denoiser = ConditionalMixture(build_schedule(SCHEDULES["linear"]))
    guided = Guided(denoiser, chain(len(x)), [3.0, 5.0], interval=(0.2, 0.6))
    free = Guided(denoiser, chain(len(x)), [3.0, 5.0])
    for t, inside in ((0.2, False), (0.2001, True), (0.6, True), (0.6001, False), (1.0, False)):
        wanted = free(x, t) if inside else denoiser(x, t, chain(len(x))[-1])
        assert torch.equal(guided(x, t).eps, wanted.eps), t
    times = torch.tensor([0.1] * 20 + [0.5] * 20)
    torch.testing.assert_close(
        guided(x, times).eps[:20], denoiser(x[:20], 0.1, chain(20)[-1]).eps, rtol=1e-6, atol=1e-7
    )


def test_rescaling_brings_back_the_deviation_of_the_plain_estimate(x):
    schedule, t = build_schedule(SCHEDULES["cosine"]), 0.7
    denoiser = ConditionalMixture(schedule)
    plain = denoiser(x, t, chain(40)[-1]).x_0
    free = Guided(denoiser, chain(40), [6.0, 6.0])(x, t).x_0
    fully = Guided(denoiser, chain(40), [6.0, 6.0], rescale=1.0)(x, t)
    torch.testing.assert_close(fully.x_0.std(1), plain.std(1))
    torch.testing.assert_close(fully.x_0 / fully.x_0.std(1, keepdim=True), free / free.std(1, keepdim=True))
    half = Guided(denoiser, chain(40), [6.0, 6.0], rescale=0.5)(x, t)
    torch.testing.assert_close(half.x_0, (fully.x_0 + free) / 2)
    torch.testing.assert_close(half.eps, eps_from_x_0(x, half.x_0, schedule.signal(t), schedule.noise(t)))
    torch.testing.assert_close(rescaled(free, plain, 0.0), free)


def test_a_learned_variance_is_that_of_the_joint_conditional_never_guided(x):
    denoiser = ConditionalMixture(build_schedule(SCHEDULES["linear"]))
    guided = Guided(denoiser, chain(40), [3.0, 2.0])(x, 0.3)
    assert torch.equal(guided.variance_fraction, denoiser(x, 0.3, chain(40)[-1]).variance_fraction)


def test_clipping_comes_after_guidance(x):
    schedule, t = build_schedule(SCHEDULES["linear"]), 0.4
    clipped = Clipped(Guided(ConditionalMixture(schedule), chain(40), [5.0, 5.0]))(x, t)
    assert clipped.x_0.abs().max() <= 1
    free = Guided(ConditionalMixture(schedule), chain(40), [5.0, 5.0])(x, t)
    assert free.x_0.abs().max() > 1
    assert torch.equal(clipped.x_0, free.x_0.clamp(-1, 1))


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("w", [0.0, 1.0, 2.5])
def test_classifier_guidance_adds_w_times_the_gradient_of_log_p_of_y(name, w, x):
    schedule, t = build_schedule(SCHEDULES[name]), 0.35

    def log_probability(x_t: Tensor, time: Time) -> Tensor:
        everything = log_density(schedule, x_t, time, EVERYTHING.expand(len(x_t), -1))
        return log_density(schedule, x_t, time, LEFT.expand(len(x_t), -1)) - everything

    denoiser = ConditionalMixture(schedule)
    guided = ClassifierGuided(denoiser, log_probability, w)(x, t, condition(EVERYTHING, 40))
    u, c = score(schedule, x, t, EVERYTHING), score(schedule, x, t, LEFT)
    torch.testing.assert_close(-guided.eps / expand(schedule.noise(t), x), u + w * (c - u), rtol=1e-6, atol=1e-8)
    eps = eps_from_x_0(x, guided.x_0, schedule.signal(t), schedule.noise(t))
    torch.testing.assert_close(guided.eps, eps, rtol=1e-6, atol=1e-7)


def test_classifier_guidance_is_finite_where_nothing_of_the_picture_is_left(x):
    schedule = build_schedule(ScheduleSettings(zero_terminal_snr=True))

    class Flat:
        def __init__(self) -> None:
            self.schedule = schedule

        def __call__(self, x_t: Tensor, t: Time, cond: Cond | None = None) -> Prediction:
            return Prediction(torch.zeros_like(x_t), x_t)

    guided = ClassifierGuided(Flat(), lambda x_t, t: (x_t * 0).sum(1), 3.0)(x, 1.0)
    assert guided.x_0.isfinite().all()
    assert guided.eps.isfinite().all()


def test_what_does_not_fit_is_refused(x):
    denoiser = ConditionalMixture(build_schedule(SCHEDULES["linear"]))
    with pytest.raises(ConfigurationError, match="one estimate more than weights"):
        Guided(denoiser, chain(40), [1.0])
    with pytest.raises(ConfigurationError, match="holds its conditions"):
        Guided(denoiser, chain(40), [1.0, 1.0])(x, 0.5, chain(40)[0])
    with pytest.raises(ConfigurationError, match=r"of shape \(40,\)"):
        ClassifierGuided(denoiser, lambda x_t, t: x_t, 1.0)(x, 0.5, chain(40)[0])

"""Law 2: every deterministic sampler converges with its declared order; stochastic ones follow their closed-form recursion."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import pairwise

import numpy as np
import pytest
import torch

from alphabar.diffusion.gaussian import diffuse
from alphabar.diffusion.schedule import ContinuousCosineSchedule, TableSchedule, build_schedule
from alphabar.errors import ConfigurationError
from alphabar.samplers.adaptive import Adaptive
from alphabar.samplers.ancestral import Ancestral
from alphabar.samplers.base import Visit, last_state, sample_states, seeded_noises, walk
from alphabar.samplers.clip import Clipped
from alphabar.samplers.coordinates import half_log_snr, jump, sigma
from alphabar.samplers.ddim import DDIM, DDIMInversion
from alphabar.samplers.deis import DEIS
from alphabar.samplers.dpm_3m import DPMSolver3M
from alphabar.samplers.euler import Euler
from alphabar.samplers.grids import GRIDS, least_time, time_grid
from alphabar.samplers.heun import Heun
from alphabar.samplers.methods import METHODS, Options, auto_choice, build_sampler
from alphabar.samplers.plms import PLMS
from alphabar.samplers.unipc import UniPC
from alphabar.settings.base import OPTION_OF, SampleSettings, ScheduleSettings

from .exact import GaussianMixture, draw_mixture

NOISY, CLEAN = -1.0, 1.5  # lambda = log(a / b) between which orders are measured
START = torch.tensor([[0.3, -0.7], [-1.0, 0.4], [1.5, 0.8]], dtype=torch.float64)
DETERMINISTIC = [name for name in METHODS if name not in ("ancestral", "dpm++2m-sde")]
EXPLICIT = {f"deis-{k}": lambda k=k: DEIS(k) for k in (1, 2, 3, 4)} | {
    f"unipc-{p}": lambda p=p: UniPC(p) for p in (1, 2, 3)
}
SOLVERS = {
    name: lambda name=name: build_sampler(name, Options()) for name in DETERMINISTIC if name != "adaptive"
} | EXPLICIT


def mixture(schedule):
    """Three modes of different width in the plane."""
    means = torch.tensor([[-1.0, 0.5], [0.8, -0.6], [0.2, 0.9]])
    return GaussianMixture(schedule, means, torch.tensor([0.3, 0.5, 0.4]), torch.tensor([0.3, 0.5, 0.2]))


def even_grid(schedule, variable, n):
    """n + 1 times between the two fixed log-SNRs, even in lambda or in sigma."""
    if variable == "log_snr":
        return schedule.time(2 * torch.linspace(NOISY, CLEAN, n + 1, dtype=torch.float64))
    sigmas = torch.linspace(math.exp(-NOISY), math.exp(-CLEAN), n + 1, dtype=torch.float64)
    return schedule.time(-2 * sigmas.log())


def solve(sampler, denoiser, times, x, past=()):
    past = list(past)
    for t, s in pairwise(times):
        x, visit = sampler.step(denoiser, x, t, s, no_noise, past)
        past = [visit, *past][: sampler.memory]
    return x


def no_noise(stream="sample"):
    raise AssertionError("a deterministic sampler asked for noise")


def no_noises(step):
    return no_noise


def finely(denoiser, t, s, x, steps=400):
    """The solution at s, to about ten digits, by a solver that is checked against another below."""
    ends = [half_log_snr(denoiser.schedule, u).item() for u in (t, s)]
    times = denoiser.schedule.time(2 * torch.linspace(*ends, steps + 1, dtype=torch.float64))
    return solve(UniPC(3), denoiser, times, x)


def slopes(sampler, counts, exact_start):
    """log2 of the ratio of errors at each halving of the step."""
    errors = []
    for n in counts:
        times, first = even_grid(SCHEDULE, sampler.variable, n), sampler.memory if exact_start else 0
        visits = start_values(sampler.variable, n)
        past, x = visits[:first][::-1], visits[first].x_t
        errors.append((solve(sampler, EXACT, times[first:], x, past) - SOLUTION).abs().max().item())
    return [math.log2(a / b) for a, b in pairwise(errors)]


@lru_cache
def start_values(variable, n):
    """The first visits of the exact way along a grid."""
    times, x, visits = even_grid(SCHEDULE, variable, n), START, []
    for t, s in pairwise(times[:5]):
        visits.append(Visit(t, x, EXACT(x, t)))
        x = finely(EXACT, t, s, x, 20)
    return visits


SCHEDULE = ContinuousCosineSchedule()
EXACT = mixture(SCHEDULE)
SOLUTION = finely(EXACT, *even_grid(SCHEDULE, "log_snr", 1), START, 600)


def test_the_reference_agrees_with_another_solver():
    other = solve(PLMS(), EXACT, even_grid(SCHEDULE, "sigma", 600), START)
    torch.testing.assert_close(other, SOLUTION, rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_solver_has_its_declared_order_with_starting_values_of_that_order(name):
    sampler = SOLVERS[name]()
    counts = (
        (16, 32, 64) if sampler.order >= 4 else (20, 40, 80, 160)
    )  # beyond, an order of 4 meets the reference's own error
    found = slopes(sampler, counts, exact_start=True)
    assert found[-1] == pytest.approx(sampler.order, abs=0.2), found


@pytest.mark.parametrize("name", [name for name, make in SOLVERS.items() if make().memory])
def test_a_multistep_solver_keeps_its_declared_order_with_its_own_start(name):
    sampler = SOLVERS[name]()
    found = slopes(sampler, (20, 40, 80), exact_start=False)
    assert found[-1] > sampler.start_order - 0.2, found
    if sampler.start_order == 2:
        assert found[-1] == pytest.approx(2, abs=0.2), found


def test_the_first_step_of_plms_leaves_an_error_of_its_start_order():
    """From NOISY to CLEAN that error is too small to be seen beside those of order 4, so the step is looked at alone."""
    errors = []
    for n in (100, 200, 400):
        times = even_grid(SCHEDULE, "sigma", n)[:2]
        errors.append((solve(PLMS(), EXACT, times, START) - finely(EXACT, *times, START, 20)).abs().max().item())
    assert math.log2(errors[1] / errors[2]) == pytest.approx(PLMS.start_order, abs=0.2)


def test_the_adaptive_solver_has_its_order_when_it_takes_each_step_as_it_is(monkeypatch):
    monkeypatch.setattr("alphabar.samplers.adaptive.ABSOLUTE", 1e9)
    assert slopes(Adaptive(1e9), (10, 20, 40), exact_start=True)[-1] == pytest.approx(3, abs=0.2)


def test_the_adaptive_solver_keeps_its_error_near_the_tolerance_and_a_picture_is_the_same_in_any_batch(monkeypatch):
    monkeypatch.setattr("alphabar.samplers.adaptive.ABSOLUTE", 1e-9)
    times = even_grid(SCHEDULE, "log_snr", 1)
    errors = [(solve(Adaptive(tol), EXACT, times, START) - SOLUTION).abs().max().item() for tol in (1e-1, 1e-3, 1e-5)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[1] < 1e-2
    assert errors[2] < 1e-4
    together = solve(Adaptive(1e-3), EXACT, times, START)
    for i in range(len(START)):
        torch.testing.assert_close(solve(Adaptive(1e-3), EXACT, times, START[i : i + 1]), together[i : i + 1])


def test_the_adaptive_solver_ends_even_where_nothing_is_a_number():
    class Broken:
        schedule = SCHEDULE

        def __call__(self, x_t, t, cond=None):
            return type(EXACT(START, 0.5))(x_t * float("nan"), x_t * float("nan"))

    assert solve(Adaptive(), Broken(), even_grid(SCHEDULE, "log_snr", 2), START).isnan().all()


WAYS = [
    ScheduleSettings(),
    ScheduleSettings(kind="cosine"),
    ScheduleSettings(kind="sigmoid", zero_terminal_snr=True),
    ScheduleSettings(kind="linear", zero_terminal_snr=True),
    ScheduleSettings(kind="custom", betas=[0.002 + 0.00002 * k for k in range(800)]),
    ScheduleSettings(kind="continuous_cosine"),
]


@lru_cache
def solution_on_no_grid(kind, zero_terminal_snr):
    """The schedule, its exact denoiser, and where the flow leads from t = 1: 150 steps even in lambda to step 1, and the jump to clean data.

    Without a signal at t = 1, the first step is Euler's to the latest time with a finite lambda.
    """
    schedule = build_schedule(ScheduleSettings(kind=kind, zero_terminal_snr=zero_terminal_snr, steps=120))
    exact, start = mixture(schedule), 1 - 1 / 120 if zero_terminal_snr else 1.0
    ends = [half_log_snr(schedule, t).item() for t in (start, least_time(schedule))]
    inner = schedule.time(2 * torch.linspace(*ends, 151).double())[0 if zero_terminal_snr else 1 :]
    times = torch.cat([torch.ones(1).double(), inner, torch.zeros(1).double()])
    return schedule, exact, last_state(walk(UniPC(2), exact, START, times, no_noises)).x_t


ON_GRIDS = [
    (settings.kind, settings.zero_terminal_snr, grid)
    for settings in WAYS
    for grid in sorted(GRIDS.keys() - {"few"})  # whose last step, a jump, stays as long however many there are
    if settings.kind != "custom" and (settings.kind != "continuous_cosine" or grid not in ("leading", "linspace"))
]


@pytest.mark.parametrize(("kind", "zero", "grid"), ON_GRIDS)
def test_on_every_grid_all_solvers_converge_to_one_solution_from_the_same_noise(kind, zero, grid):
    """With the jump to clean data and with a start without signal; a method of order 1 gains 4 from 30 to 120 steps."""
    schedule, exact, solution = solution_on_no_grid(kind, zero)
    for name in set(DETERMINISTIC) - {"euler"}:  # which is ddim
        errors = []
        for steps in (30, 120):
            times = time_grid(grid, schedule, steps)
            x = last_state(walk(build_sampler(name, Options(tolerance=1e-2)), exact, START, times, no_noises)).x_t
            errors.append((x - solution).abs().max().item())
        assert errors[1] < max(errors[0] / 3, 0.004), (name, errors)
        assert errors[1] < 0.05, (name, errors)


@pytest.mark.parametrize("grid", ["leading", "linspace"])
def test_grids_of_a_table_need_one(grid):
    with pytest.raises(ConfigurationError, match="steps of a table"):
        time_grid(grid, SCHEDULE, 10)


@pytest.mark.parametrize("grid", ["trailing", "quadratic", "log_snr", "karras", "few"])
@pytest.mark.parametrize("settings", WAYS, ids=lambda s: f"{s.kind}{'-zero' if s.zero_terminal_snr else ''}")
def test_grids_fall_from_noise_to_data_at_every_count(settings, grid):
    schedule = build_schedule(settings)
    for steps in (1, 2, 3, 7, 50, schedule.steps or 300):
        times = time_grid(grid, schedule, steps)
        assert len(times) == steps + 1
        assert times[0] == 1
        assert times[-1] == 0
        assert (times.diff() < 0).all(), steps
        assert steps == 1 or times[-2] > least_time(schedule) - 1e-9


def test_older_grids_are_those_of_diffusers():
    schedule = build_schedule(ScheduleSettings())
    np.testing.assert_array_equal(time_grid("leading", schedule, 50)[:3] * 1000, [981, 961, 941])
    np.testing.assert_allclose(time_grid("linspace", schedule, 5) * 1000, [1000, 750.0, 501, 251, 1, 0])


def test_log_snr_and_karras_grids_are_even_in_their_variable():
    schedule = build_schedule(ScheduleSettings(kind="cosine"))
    spacing = half_log_snr(schedule, time_grid("log_snr", schedule, 20)[:-1]).diff()
    torch.testing.assert_close(spacing, spacing.mean().expand(19))
    roots = (-half_log_snr(schedule, time_grid("karras", schedule, 20)[:-1]) / 7).exp().diff()
    torch.testing.assert_close(roots, roots.mean().expand(19))


@pytest.mark.parametrize(("beta_end", "ends"), [(0.02, (30, 0.05)), (0.005, None)])
def test_the_grid_few_is_even_in_the_fifth_root_between_its_ends_and_within_the_schedule(beta_end, ends):
    schedule = build_schedule(ScheduleSettings(beta_end=beta_end))
    most = float(sigma(schedule, 1.0))
    noisy, clean = ends or (most, max(most / 600, float(sigma(schedule, 1e-3))))
    levels = sigma(schedule, time_grid("few", schedule, 20)[1:-1])
    expected = torch.linspace(noisy ** (1 / 5), clean ** (1 / 5), 20, dtype=torch.float64)[1:] ** 5
    torch.testing.assert_close(levels, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("settings", WAYS, ids=lambda s: f"{s.kind}{'-zero' if s.zero_terminal_snr else ''}")
def test_time_is_the_inverse_of_the_log_snr(settings):
    schedule = build_schedule(settings)
    t = torch.tensor([1e-5, 2e-4, 1e-3, 1.5e-3, 0.2, 0.33333, 0.5, 0.9, 0.9985, 0.9995], dtype=torch.float64)
    torch.testing.assert_close(schedule.time(schedule.log_snr(t)), t, rtol=1e-7, atol=1e-9)
    assert schedule.time(math.inf) == 0
    assert schedule.time(-math.inf) == 1
    assert schedule.time(schedule.log_snr(1.0)) == 1


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("grid", GRIDS)
def test_every_sampler_runs_at_every_count_of_steps(name, grid):
    schedule = build_schedule(ScheduleSettings(kind="cosine", steps=12, zero_terminal_snr=True))
    exact = mixture(schedule)
    for steps in range(1, 13):
        x = last_state(
            sample_states(build_sampler(name, Options()), exact, time_grid(grid, schedule, steps), [1, 2], [2])
        ).x_t
        assert x.isfinite().all()
        assert x.abs().max() < 4


@pytest.mark.parametrize("name", [name for name in METHODS if name != "plms"])  # which ends with its mean of estimates
def test_the_last_step_to_clean_data_is_the_estimate_itself(name):
    schedule = build_schedule(ScheduleSettings(steps=100))
    *_, state = sample_states(
        build_sampler(name, Options()), mixture(schedule), time_grid("trailing", schedule, 7), [5], [2]
    )
    assert state.t == 0
    torch.testing.assert_close(state.x_t, state.x_0_hat)


@pytest.mark.parametrize("name", METHODS)
def test_a_sample_depends_on_its_own_seed_only(name):
    schedule = build_schedule(ScheduleSettings(steps=100))
    sampler, times = build_sampler(name, Options()), time_grid("trailing", schedule, 9)

    def run(seeds):
        return last_state(sample_states(sampler, mixture(schedule), times, seeds, [2])).x_t

    torch.testing.assert_close(run([3, 4, 5])[1], run([4])[0], rtol=1e-5, atol=1e-5)
    assert not torch.equal(run([3])[0], run([4])[0])


# the DDPM family


def test_ddim_with_eta_one_is_ancestral_sampling_with_the_posterior_variance():
    schedule = build_schedule(ScheduleSettings())
    times = time_grid("trailing", schedule, 30)
    exact = mixture(schedule)
    one, other = (
        last_state(sample_states(s, exact, times, range(20), [2])).x_t for s in (DDIM(1.0), Ancestral("posterior"))
    )
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_ddim_with_eta_zero_is_the_euler_step():
    schedule = build_schedule(ScheduleSettings())
    times = time_grid("trailing", schedule, 30)
    one, other = (last_state(sample_states(s, mixture(schedule), times, [1, 2], [2])).x_t for s in (DDIM(0.0), Euler()))
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("steps", [20, 100])
def test_inversion_returns_to_the_start(steps):
    schedule = build_schedule(ScheduleSettings())
    exact = mixture(schedule)
    times = time_grid("trailing", schedule, steps)
    x_0 = draw_mixture(exact, 10, 1)
    up = last_state(walk(DDIMInversion(20, tolerance=0), exact, x_0, times.flip(0), no_noises)).x_t
    down = last_state(walk(DDIM(), exact, up, times, no_noises)).x_t
    torch.testing.assert_close(down, x_0, rtol=0, atol=1e-4)
    assert 0.5 < up.std() < 2


def test_inversion_refuses_to_go_where_nothing_is_left():
    exact = mixture(build_schedule(ScheduleSettings(zero_terminal_snr=True)))
    with pytest.raises(ConfigurationError, match="zero terminal SNR"):
        solve(DDIMInversion(), exact, torch.tensor([0.5, 1.0]).double(), START)


# together with what else there is


def test_solvers_work_with_clipping_and_a_batch_of_times():
    schedule = build_schedule(ScheduleSettings(steps=100))
    clipped = Clipped(mixture(schedule))
    for name in METHODS:
        x = last_state(
            sample_states(build_sampler(name, Options()), clipped, time_grid("trailing", schedule, 12), [1, 2, 3], [2])
        ).x_t
        assert x.abs().max() <= 1 + 1e-6


def test_a_walk_starts_anywhere_and_noise_comes_in_streams():
    schedule = build_schedule(ScheduleSettings(steps=100))
    noises = seeded_noises([7], [2])
    assert not torch.equal(noises(1)(), noises(2)())
    assert not torch.equal(noises(1)(), noises(1)("known"))
    x = diffuse(torch.full((1, 2), 0.5), schedule.alpha_bar(0.4), noises(0)())
    states = list(walk(Euler(), mixture(schedule), x, torch.tensor([0.4, 0.2, 0.0]).double(), noises))
    assert [state.t for state in states] == pytest.approx([0.4, 0.2, 0.0])
    assert torch.equal(states[0].x_t, x)


def test_the_third_order_term_is_whole():
    """The authors' code halves the last term, which leaves order 2: with it halved, the slope falls."""

    class Halved(DPMSolver3M):
        pass

    import alphabar.samplers.dpm_3m as module

    original = module.parabola
    try:
        module.parabola = lambda *args: (lambda d: (d[0], d[1], d[2] / 2))(original(*args))
        assert slopes(Halved(), (40, 80), exact_start=True)[-1] < 2.4
    finally:
        module.parabola = original


def test_jump_at_the_end_is_the_estimate():
    said = EXACT(START, 0.3)
    assert torch.equal(jump(said, SCHEDULE.signal(0.0), SCHEDULE.noise(0.0)), said.x_0)


def test_names_in_the_settings_are_those_of_the_methods():
    fields = SampleSettings.model_fields
    assert set(fields["sampler"].annotation.__args__) == {"auto", *METHODS}
    assert set(fields["grid"].annotation.__args__[0].__args__) == set(GRIDS)
    assert set(OPTION_OF.values()) <= set(METHODS)


def test_auto_has_an_answer_for_every_count_of_steps():
    for steps in (1, 2, 5, 10, 20, 50, 100, 250, 1000):
        choice = auto_choice(steps)
        assert choice.sampler in METHODS
        assert choice.grid in GRIDS


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: DDIM(1.5), "eta must lie in"),
        (lambda: DDIMInversion(0), "at least 1 round"),
        (lambda: DEIS(5), "orders 1 to 4"),
        (lambda: UniPC(0), "from 1 to 3"),
        (lambda: Adaptive(0), "above 0"),
        (lambda: build_sampler("unpic", Options()), "did you mean 'unipc'"),
        (lambda: time_grid("karas", SCHEDULE, 5), "did you mean 'karras'"),
        (lambda: SampleSettings(sampler="heun", eta=0.5), "eta is a setting of sampler=ddim"),
        (lambda: SampleSettings(variance="beta", eta=0.5), "different samplers"),
    ],
)
def test_bad_settings_say_so(make, match):
    with pytest.raises(ConfigurationError, match=match):
        make()


def test_plms_and_heun_know_what_they_cost():
    assert (Heun.calls, PLMS.calls, TableSchedule([0.1, 0.2]).steps) == (2, 1, 2)

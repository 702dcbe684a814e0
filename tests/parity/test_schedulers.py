"""Law 3: from the same noise and the same network, trajectories are those of diffusers' schedulers.

The network is one function of (x_t, step) on both sides, in float64, so that only the samplers differ. Where diffusers deviates from
the papers, the test of that method says how and makes both do the same.
"""

from __future__ import annotations

import diffusers
import numpy as np
import pytest
import torch

from alphabar.diffusion.denoiser import Denoiser
from alphabar.diffusion.schedule import TableSchedule, build_schedule
from alphabar.samplers import dpm_3m
from alphabar.samplers.ancestral import Ancestral
from alphabar.samplers.base import walk
from alphabar.samplers.clip import Clipped
from alphabar.samplers.coordinates import sigma
from alphabar.samplers.ddim import DDIM
from alphabar.samplers.deis import DEIS
from alphabar.samplers.dpm_2m import DPMSolver2M
from alphabar.samplers.dpm_2m_sde import DPMSolver2MSDE
from alphabar.samplers.dpm_3m import DPMSolver3M
from alphabar.samplers.euler import Euler
from alphabar.samplers.grids import time_grid
from alphabar.samplers.heun import Heun
from alphabar.samplers.plms import PLMS
from alphabar.samplers.unipc import UniPC
from alphabar.settings.base import DiffusionSettings, ScheduleSettings

SHAPE = (2, 3, 4, 4)
KINDS = {
    "linear": ("linear", 1e-4, 0.02),
    "scaled_linear": ("scaled_linear", 8.5e-4, 0.012),
    "cosine": ("squaredcos_cap_v2", 1e-4, 0.02),
}
PREDICTIONS = {"eps": "epsilon", "x_0": "sample", "v": "v_prediction"}
START = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
MIX = torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64) / 2


def network(x, step):
    """A smooth function of the picture and the step (0 for t = 1 / T), about as large as noise is."""
    mixed = torch.einsum("ij,njhw->nihw", MIX, x)
    return torch.tanh(mixed) + 0.3 * torch.sin(3 * x) * (1 + step.double().reshape(-1, 1, 1, 1) / 1000)


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x, time, cond):
        return network(x, time)


class DoubleDenoiser(Denoiser):
    """Without the cast to float32, so that rounding does not hide a difference."""

    def output(self, x_t, t, cond=None):
        return self.network(x_t, self.network_time(t, x_t), cond), None


class RoundedDenoiser(DoubleDenoiser):
    """The network is told whole steps only, as by the multistep schedulers of diffusers between the steps of the table."""

    def network_time(self, t, x):
        return super().network_time(t, x).round()


def ours(
    sampler,
    kind="linear",
    prediction="eps",
    steps=10,
    grid="trailing",
    clip="off",
    noises=None,
    last=0.0,
    times=None,
    make=DoubleDenoiser,
):
    denoiser = make(Network(), table(kind), DiffusionSettings(prediction=prediction))
    times = time_grid(grid, denoiser.schedule, steps) if times is None else times
    times[-1] = last
    states = walk(sampler, Clipped(denoiser, clip), START, times, lambda i: lambda stream="sample": noises[i - 1])
    return [state.x_t for state in states][1:], denoiser.schedule


def theirs(scheduler, steps, noises=None, scale=1.0, sigmas=None):
    """The states of a diffusers scheduler from `scale` times START, in its own scaling of x; `sigmas` replace its own float32 list."""
    scheduler.set_timesteps(steps)
    if sigmas is not None:
        torch.testing.assert_close(scheduler.sigmas.double(), sigmas, rtol=2e-5, atol=0)
        scheduler.sigmas = sigmas
    elif hasattr(scheduler, "sigmas"):
        scheduler.sigmas = unrounded(scheduler.sigmas, scheduler.alphas_cumprod)
    x, states = START * scale, []
    for i, step in enumerate(scheduler.timesteps):
        output = network(scheduler.scale_model_input(x, step), step.reshape(1))
        extra = {} if noises is None else noises(i)
        x = scheduler.step(output, step, x, **extra).prev_sample
        states.append(x)
    return states


def build(name, kind="linear", prediction="eps", **settings):
    """A scheduler of diffusers with its table in float64: rounded to float32, its last alpha_bar alone is off by 1e-5."""
    schedule, start, end = KINDS[kind]
    scheduler = getattr(diffusers, name)(
        num_train_timesteps=1000,
        beta_schedule=schedule,
        beta_start=start,
        beta_end=end,
        prediction_type=PREDICTIONS[prediction],
        **settings,
    )
    scheduler.alphas_cumprod = table(kind).alpha_bars[1:]
    return scheduler


def unrounded(sigmas, alphas_cumprod):
    """Their float32 list of sigmas with the float64 values of the table that it holds."""
    exact = ((1 - alphas_cumprod) / alphas_cumprod).sqrt()
    nearest = exact[(exact[None] / sigmas.double()[:, None] - 1).abs().argmin(1)]
    return torch.where(sigmas > 0, nearest, 0.0)


def table(kind):
    return build_schedule(ScheduleSettings(kind=kind, beta_start=KINDS[kind][1], beta_end=KINDS[kind][2]))


def assert_same(mine, other, tolerance=1e-5):
    """Every state, relative to its own size."""
    assert len(mine) == len(other)
    for i, (a, b) in enumerate(zip(mine, other, strict=True)):
        error = ((a - b).abs().max() / b.abs().max()).item()
        assert error < tolerance, (i, error)


BOTH = [(kind, prediction) for kind in KINDS for prediction in PREDICTIONS]


@pytest.mark.parametrize(("kind", "prediction"), BOTH)
@pytest.mark.parametrize("steps", [5, 20])
def test_ddim(kind, prediction, steps):
    """Where the count does not divide T, diffusers takes the step before as t - T // n and not from its list: so it divides."""
    scheduler = build("DDIMScheduler", kind, prediction, clip_sample=False, timestep_spacing="trailing")
    assert_same(ours(DDIM(), kind, prediction, steps)[0], theirs(scheduler, steps), 1e-5)


@pytest.mark.parametrize("grid", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("steps", [10, 25])
def test_ddim_on_the_grids_of_diffusers(grid, steps):
    """On "linspace", diffusers steps by T // n whatever its grid is, so only its first state is a DDIM step of the grid."""
    scheduler = build("DDIMScheduler", clip_sample=False, timestep_spacing=grid)
    mine, other = ours(DDIM(), steps=steps, grid=grid)[0], theirs(scheduler, steps)
    np.testing.assert_allclose(
        time_grid(grid, TableSchedule(scheduler.betas), steps)[:-1] * 1000 - 1, scheduler.timesteps, atol=1e-9
    )
    if grid != "linspace":
        assert_same(mine, other)


@pytest.mark.parametrize("eta", [0.4, 1.0])
def test_ddim_with_noise(eta):
    noises = [
        torch.randn(SHAPE, generator=torch.Generator().manual_seed(5 + i), dtype=torch.float64) for i in range(12)
    ]
    scheduler = build("DDIMScheduler", clip_sample=False, timestep_spacing="trailing")
    other = theirs(scheduler, 10, lambda i: {"eta": eta, "variance_noise": noises[i]})
    # at the last step diffusers keeps the variance of a step from t = 1 to 0, which is 0 for alpha_bar_0 = 1
    assert_same(ours(DDIM(eta), steps=10, noises=noises)[0], other)


@pytest.mark.parametrize("clip", ["static", "off"])
def test_ddim_with_clipping(clip):
    """After clipping, diffusers keeps the network's eps unless use_clipped_model_output; the paper's form derives it again."""
    scheduler = build("DDIMScheduler", clip_sample=clip == "static", timestep_spacing="trailing")
    other = theirs(scheduler, 10, lambda i: {"use_clipped_model_output": True})
    assert_same(ours(DDIM(), clip=clip)[0], other)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_ddpm(variance, prediction, monkeypatch):
    """diffusers draws its noise inside; both sides are given the same. With "trailing" its last step is not step 0, so it adds noise
    there too: with "fixed_large" the last state is left out."""
    steps = 12
    noises = [torch.randn(SHAPE, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in range(steps)]
    drawn = iter(noises)
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *args, **kwargs: next(drawn))
    scheduler = build(
        "DDPMScheduler", "linear", prediction, variance_type=variance, clip_sample=True, timestep_spacing="trailing"
    )
    sampler = Ancestral({"fixed_small": "posterior", "fixed_large": "beta"}[variance])
    mine, other = ours(sampler, "linear", prediction, steps, clip="static", noises=noises)[0], theirs(scheduler, steps)
    count = steps if variance == "fixed_small" else steps - 1
    assert_same(mine[:count], other[:count])


@pytest.mark.parametrize(("kind", "prediction"), BOTH)
@pytest.mark.parametrize("make", [Euler, Heun])
def test_euler_and_heun(make, kind, prediction):
    """Theirs work in y = x / a; Heun's list has each inner time twice, once for the step to it and once for the mean of both slopes."""
    if prediction == "x_0" and make is Heun:
        pytest.skip("diffusers' Heun has no prediction of x_0")
    steps = 10
    name = {Euler: "EulerDiscreteScheduler", Heun: "HeunDiscreteScheduler"}[make]
    mine, schedule = ours(make(), kind, prediction, steps)
    scheduler = build(name, kind, prediction, timestep_spacing="trailing")
    # on this grid theirs starts from sigma z, where y = x / a of the process is sqrt(sigma^2 + 1) z
    other = theirs(scheduler, steps, scale=1 / schedule.signal(1.0))
    if make is Heun:
        other = [*other[1:-1:2], other[-1]]
    a = schedule.signal(time_grid("trailing", schedule, steps)[1:])
    assert_same(mine, [y * scale for y, scale in zip(other, a, strict=True)])


@pytest.mark.parametrize("steps", [10, 25])
def test_plms(steps):
    """PNDM without its Runge-Kutta start: the second step is taken again, as our first one does inside."""
    scheduler = build("PNDMScheduler", skip_prk_steps=True, set_alpha_to_one=True, timestep_spacing="trailing")
    other = theirs(scheduler, steps)
    assert_same(ours(PLMS(), steps=steps)[0], other[1:])


COMMON = {"timestep_spacing": "trailing", "final_sigmas_type": "zero", "lower_order_final": False}


@pytest.mark.parametrize(("kind", "prediction"), BOTH)
@pytest.mark.parametrize("steps", [8, 20])
def test_dpm_solver_2m(kind, prediction, steps):
    scheduler = build("DPMSolverMultistepScheduler", kind, prediction, solver_order=2, **COMMON)
    assert_same(ours(DPMSolver2M(), kind, prediction, steps)[0], theirs(scheduler, steps), 1e-5)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_dpm_solver_3m(prediction, monkeypatch):
    """Theirs halves the term of the second difference, as the authors' code does, which leaves order 2 (tests/laws): so halved, both agree."""
    steps = 12
    scheduler = build("DPMSolverMultistepScheduler", "linear", prediction, solver_order=3, **COMMON)
    other = theirs(scheduler, steps)
    whole = ours(DPMSolver3M(), "linear", prediction, steps)[0]
    assert (whole[-1] - other[-1]).abs().max() > 1e-4
    parabola = dpm_3m.parabola
    monkeypatch.setattr(dpm_3m, "parabola", lambda *args: (lambda d_0, d_1, d_2: (d_0, d_1, d_2 / 2))(*parabola(*args)))
    assert_same(ours(DPMSolver3M(), "linear", prediction, steps)[0], other)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_sde_dpm_solver_2m(prediction):
    steps = 12
    noises = [torch.randn(SHAPE, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in range(steps)]
    scheduler = build(
        "DPMSolverMultistepScheduler", "linear", prediction, algorithm_type="sde-dpmsolver++", solver_order=2, **COMMON
    )
    other = theirs(scheduler, steps, lambda i: {"variance_noise": noises[i]})
    assert_same(ours(DPMSolver2MSDE(), "linear", prediction, steps, noises=noises)[0], other)


@pytest.mark.parametrize(("kind", "prediction"), BOTH)
@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc(kind, prediction, order):
    """Theirs runs its last step to clean data as a step of order 1 only with lower_order_final."""
    steps = 12
    scheduler = build(
        "UniPCMultistepScheduler", kind, prediction, solver_order=order, **(COMMON | {"lower_order_final": True})
    )
    if order == 3:  # their lower_order_final also takes the last but one step with order 2
        mine, other = (
            list(states)[:-3] for states in (ours(UniPC(order), kind, prediction, steps)[0], theirs(scheduler, steps))
        )
    else:
        mine, other = ours(UniPC(order), kind, prediction, steps)[0], theirs(scheduler, steps)
    assert_same(mine, other, 1e-5)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("order", [1, 2, 3])
def test_deis(prediction, order):
    """Theirs has the orders 1 to 3, and ends at step 1 of the table, not at clean data."""
    scheduler = build(
        "DEISMultistepScheduler",
        "linear",
        prediction,
        solver_order=order,
        timestep_spacing="trailing",
        lower_order_final=False,
    )
    assert_same(ours(DEIS(order), "linear", prediction, 10, last=1 / 1000)[0], theirs(scheduler, 10))


MULTISTEP = {
    "2m": (DPMSolver2M, "DPMSolverMultistepScheduler", {"solver_order": 2, **COMMON}),
    "unipc": (UniPC, "UniPCMultistepScheduler", {"solver_order": 2, **COMMON, "lower_order_final": True}),
}


@pytest.mark.parametrize("spacing", ["linspace", "leading"])
@pytest.mark.parametrize("name", MULTISTEP)
def test_multistep_solvers_on_the_steps_that_diffusers_lays_out(name, spacing):
    """Its lists for these solvers are not those of DDIM: they have one step more before the first is left out. So ours takes its list."""
    make, scheduler, settings = MULTISTEP[name]
    scheduler = build(scheduler, **(settings | {"timestep_spacing": spacing}))
    other = theirs(scheduler, 10)
    times = torch.cat([(scheduler.timesteps.double() + 1) / 1000, torch.zeros(1).double()])
    assert_same(ours(make(), times=times)[0], other)


@pytest.mark.parametrize("spacing", ["linspace", "leading"])
@pytest.mark.parametrize("make", [Euler, Heun])
def test_euler_and_heun_on_the_steps_that_diffusers_lays_out(make, spacing):
    name = {Euler: "EulerDiscreteScheduler", Heun: "HeunDiscreteScheduler"}[make]
    scheduler = build(name, timestep_spacing=spacing)
    scheduler.set_timesteps(10)
    steps = (
        scheduler.timesteps[:1].tolist() + scheduler.timesteps[1::2].tolist()
        if make is Heun
        else scheduler.timesteps.tolist()
    )
    times = (torch.tensor([*steps, -1]).double() + 1) / 1000
    mine, schedule = ours(make(), times=times)
    other = theirs(scheduler, 10, scale=1 / schedule.signal(times[0]))
    if make is Heun:
        other = [*other[1:-1:2], other[-1]]
    assert_same(mine, [y * schedule.signal(t) for y, t in zip(other, times[1:], strict=True)])


@pytest.mark.parametrize("kind", ["linear", "scaled_linear"])
@pytest.mark.parametrize(("name", "grid"), [("2m", "karras"), ("2m", "log_snr"), ("unipc", "karras")])
def test_multistep_solvers_on_grids_between_the_steps(name, kind, grid):
    """Theirs rounds what the network is told to whole steps and keeps the sigmas of the grid, which are ours. UniPC of diffusers has no
    grid even in the log-SNR."""
    make, scheduler, settings = MULTISTEP[name]
    option = {"karras": "use_karras_sigmas", "log_snr": "use_lu_lambdas"}[grid]
    schedule = table(kind)
    times = time_grid(grid, schedule, 10)
    other = theirs(build(scheduler, kind, **(settings | {option: True})), 10, sigmas=sigma(schedule, times))
    assert_same(ours(make(), kind, times=times, make=RoundedDenoiser)[0], other)


@pytest.mark.parametrize("make", [Euler, Heun])
def test_euler_and_heun_on_the_karras_grid(make):
    """Theirs tells the network the step between those of the table at which log sigma, taken as straight between them, is the grid's."""
    name = {Euler: "EulerDiscreteScheduler", Heun: "HeunDiscreteScheduler"}[make]
    schedule = table("linear")
    times = time_grid("karras", schedule, 10)
    sigmas = sigma(schedule, times)
    listed = torch.cat([sigmas[:1], sigmas[1:-1].repeat_interleave(2), sigmas[-1:]]) if make is Heun else sigmas
    scheduler = build(name, use_karras_sigmas=True)
    other = theirs(scheduler, 10, scale=1 / schedule.signal(1.0), sigmas=listed)
    if make is Heun:
        other = [*other[1:-1:2], other[-1]]
    mine, _ = ours(make(), times=times, make=DoubleDenoiser)
    assert_same(mine, [y * schedule.signal(t) for y, t in zip(other, times[1:], strict=True)])

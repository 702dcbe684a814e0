"""Single steps of samplers against their formulas, and multistep methods on steps of uneven length, which even grids cannot tell."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from alphabar.diffusion.gaussian import posterior_variance, stride_beta
from alphabar.diffusion.parameterization import Prediction, eps_from_x_0
from alphabar.diffusion.schedule import ContinuousCosineSchedule, build_schedule
from alphabar.samplers.ancestral import Ancestral
from alphabar.samplers.base import Visit
from alphabar.samplers.coordinates import half_log_snr
from alphabar.samplers.ddim import DDIM
from alphabar.samplers.deis import DEIS
from alphabar.samplers.dpm_2m import DPMSolver2M
from alphabar.samplers.dpm_2m_sde import DPMSolver2MSDE
from alphabar.samplers.dpm_3m import DPMSolver3M
from alphabar.samplers.repaint import RePaint
from alphabar.samplers.unipc import UniPC
from alphabar.settings.base import ScheduleSettings

from .exact import gaussian

SCHEDULE = ContinuousCosineSchedule()
TABLE = build_schedule(ScheduleSettings())
T, S = torch.tensor(0.6).double(), torch.tensor(0.45).double()


PHASES = torch.linspace(0, 2.5, 6).double()[:, None]


class Waving:
    """x_0_hat = sin(2 lambda + phase), whatever x_t is: x / b then grows by the integral of e^lambda x_0_hat, which is known."""

    schedule = SCHEDULE

    def __call__(self, x_t, t, cond=None):
        x_0 = torch.sin(2 * half_log_snr(SCHEDULE, t) + PHASES)
        return Prediction(x_0, eps_from_x_0(x_t, x_0, SCHEDULE.signal(t), SCHEDULE.noise(t)))

    def exact(self, t):
        """A solution: x / b = 1 / 5 e^lambda (sin(2 lambda + phase) - 2 cos(2 lambda + phase)) + 1."""
        here = half_log_snr(SCHEDULE, t)
        wave = here.exp() * ((2 * here + PHASES).sin() - 2 * (2 * here + PHASES).cos()) / 5
        return SCHEDULE.noise(t) * (wave + 1)


MULTISTEP = {"dpm++2m": DPMSolver2M, "dpm++3m": DPMSolver3M} | {
    f"deis-{k}": lambda k=k: DEIS(k) for k in (2, 3, 4)
} | {f"unipc-{p}": lambda p=p: UniPC(p) for p in (1, 2, 3)}  # fmt: skip


@pytest.mark.parametrize("name", MULTISTEP)
def test_a_multistep_method_keeps_its_order_where_every_second_step_is_twice_as_long(name):
    sampler, way, errors = MULTISTEP[name](), Waving(), []
    for pairs in (8, 16, 32):
        share = torch.tensor([1.0, 2.0]).double().repeat(pairs).cumsum(0) / (3 * pairs)
        times = SCHEDULE.time(2 * (-1 + 2.5 * torch.cat([torch.zeros(1).double(), share])))
        first = sampler.memory
        past = [Visit(t, way.exact(t), way(way.exact(t), t)) for t in times[:first]][::-1]
        x = way.exact(times[first])
        for t, s in pairwise(times[first:]):
            x, visit = sampler.step(way, x, t, s, None, past)
            past = [visit, *past][:first]
        errors.append((x - way.exact(times[-1])).abs().max().item())
    assert math.log2(errors[1] / errors[2]) == pytest.approx(sampler.order, abs=0.35), errors


@pytest.mark.parametrize("last", [0.3, 1.0, 2.5])
def test_2m_takes_a_line_of_estimates_at_the_middle_of_its_step(last):
    """A ratio of steps upside down keeps the order (its errors telescope), so the step itself is looked at."""
    here, h, x = torch.tensor(-0.4).double(), 0.2, torch.ones(1, 1).double()
    before, t, s = (SCHEDULE.time(2 * (here + shift)) for shift in (-last * h, 0, h))

    class Line:
        schedule = SCHEDULE

        def __call__(self, x_t, t, cond=None):
            x_0 = 0.3 - 0.7 * half_log_snr(SCHEDULE, t).reshape(1, 1)
            return Prediction(x_0, eps_from_x_0(x_t, x_0, SCHEDULE.signal(t), SCHEDULE.noise(t)))

    x_s, _ = DPMSolver2M().step(Line(), x, t, s, None, [Visit(before, x, Line()(x, before))])
    middle = 0.3 - 0.7 * (here + h / 2)
    a_s, b_s, b_t = SCHEDULE.signal(s), SCHEDULE.noise(s), SCHEDULE.noise(t)
    torch.testing.assert_close(x_s, b_s / b_t * x + a_s * (1 - math.exp(-h)) * middle)


def kick(sampler, x_t, stream, t=T, s=S, past=()):
    """What noise of this stream adds to a step."""
    exact = gaussian(TABLE, 0.3, 0.5)

    def step(size):
        return sampler.step(
            exact, x_t, t, s, lambda own="sample": torch.full_like(x_t, size if own == stream else 0.0), past
        )[0]

    return step(1.0) - step(0.0), step(0.0)


X = torch.tensor([[0.7], [-0.2]]).double()


@pytest.mark.parametrize("eta", [0.2, 0.5, 1.0])
def test_ddims_noise_is_eta_times_that_of_the_posterior(eta):
    """Song et al. 2021a, eq. 16: sigma = eta sqrt((1 - alpha_bar_s) / (1 - alpha_bar_t)) sqrt(1 - alpha_bar_t / alpha_bar_s)."""
    deviation = posterior_variance(TABLE.alpha_bar(T), TABLE.alpha_bar(S)).sqrt()
    torch.testing.assert_close(kick(DDIM(eta), X, "sample")[0], (eta * deviation).expand(2, 1))
    torch.testing.assert_close(kick(Ancestral(), X, "sample")[0], deviation.expand(2, 1))


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_keeps_the_process_if_the_estimate_is_the_truth(eta):
    """With x_t of x_0 and x_0_hat = x_0, x_s has mean a_s x_0 and variance 1 - alpha_bar_s, whatever eta is."""
    x_0, z = torch.tensor([[0.4]]).double(), torch.tensor([[-0.8]]).double()

    class True_:
        schedule = TABLE

        def __call__(self, x_t, t, cond=None):
            return Prediction(x_0, eps_from_x_0(x_t, x_0, TABLE.signal(t), TABLE.noise(t)))

    def step(size_t, size):
        x_t = TABLE.signal(T) * x_0 + TABLE.noise(T) * size_t * z
        return DDIM(eta).step(True_(), x_t, T, S, lambda stream="sample": size * torch.ones_like(x_t))[0]

    torch.testing.assert_close(step(0, 0), TABLE.signal(S) * x_0)
    variance = ((step(1, 0) - step(0, 0)) / z) ** 2 + (step(0, 1) - step(0, 0)) ** 2
    torch.testing.assert_close(variance.squeeze(), 1 - TABLE.alpha_bar(S))


def test_the_first_step_of_the_sde_is_a_draw_from_the_posterior():
    """Ancestral sampling with the posterior variance, in mean and in noise, whatever the estimate is (Lu et al. 2022b, sec. 4.3)."""
    sde, ancestral = (kick(sampler, X, "sample") for sampler in (DPMSolver2MSDE(), Ancestral()))
    torch.testing.assert_close(sde, ancestral, rtol=1e-9, atol=1e-12)


def test_a_later_step_of_the_sde_takes_the_estimate_at_the_middle():
    """x_s = (b_s / b_t) e^-h x_t + a_s (1 - e^-2h) D, D = x_0_hat(t) + h / (2 h_before) (x_0_hat(t) - x_0_hat(before))."""
    before = torch.tensor(0.8).double()
    exact = gaussian(TABLE, 0.3, 0.5)
    x_before = X + 0.4
    past = [Visit(before, x_before, exact(x_before, before))]
    noise, mean = kick(DPMSolver2MSDE(), X, "sample", past=past)
    h, h_before = (float(half_log_snr(TABLE, s) - half_log_snr(TABLE, t)) for t, s in ((T, S), (before, T)))
    now, then = exact(X, T).x_0, exact(x_before, before).x_0
    middle = now + h / (2 * h_before) * (now - then)
    a_s, b_s, b_t = float(TABLE.signal(S)), float(TABLE.noise(S)), float(TABLE.noise(T))
    expected = b_s / b_t * math.exp(-h) * X + a_s * (1 - math.exp(-2 * h)) * middle
    torch.testing.assert_close(mean, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(noise, torch.full_like(X, b_s * math.sqrt(1 - math.exp(-2 * h))), rtol=1e-9, atol=1e-12)


def repaint():
    picture, mask = torch.tensor([[0.9], [0.9]]).double(), torch.tensor([[0.0], [1.0]]).double()
    return RePaint(Ancestral(), picture, mask)


def test_the_known_part_is_the_picture_noised_to_the_time_of_the_step_and_the_rest_a_plain_step():
    added, still = kick(repaint(), X, "known")
    torch.testing.assert_close(added, torch.stack([TABLE.noise(S), torch.zeros(()).double()])[:, None])
    torch.testing.assert_close(still[0, 0], TABLE.signal(S) * 0.9)
    plain_added, plain = kick(Ancestral(), X, "sample")
    torch.testing.assert_close(still[1], plain[1])
    torch.testing.assert_close(kick(repaint(), X, "sample")[0], torch.tensor([[0.0], [1.0]]).double() * plain_added)


def test_the_way_back_up_is_a_draw_of_the_forward_process():
    visit = Visit(T, X, gaussian(TABLE)(X, T))
    added, still = kick(repaint(), X, "sample", t=S, s=T, past=[visit])
    beta = stride_beta(TABLE.alpha_bar(T), TABLE.alpha_bar(S))
    torch.testing.assert_close(added, beta.sqrt().expand(2, 1))
    torch.testing.assert_close(still, (1 - beta).sqrt() * X)
    assert kick(repaint(), X, "known", t=S, s=T, past=[visit])[0].abs().max() == 0

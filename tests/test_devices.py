"""A device other than the CPU gets no float64 and never waits for the host, shown on torch's `meta` device."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from alphabar.diffusion.denoiser import Denoiser
from alphabar.diffusion.gaussian import expand
from alphabar.diffusion.guidance import ClassifierGuided, Guided
from alphabar.diffusion.loss import denoising_loss
from alphabar.generation.editing import slerp
from alphabar.model import build_denoiser
from alphabar.networks.cond import Cond
from alphabar.samplers.adaptive import Adaptive, both_orders
from alphabar.samplers.base import walk
from alphabar.samplers.clip import Clipped
from alphabar.samplers.coordinates import half_log_snr
from alphabar.samplers.grids import time_grid
from alphabar.samplers.methods import METHODS, Options, build_sampler
from alphabar.samplers.repaint import RePaint
from alphabar.settings.base import LossSettings

from .devices import META, NoFloat64OffTheCPU
from .training.small import config, pictures

N, SHAPE = 3, (1, 8, 8)
TIMES = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)


@pytest.fixture(autouse=True)
def _no_float64():
    with NoFloat64OffTheCPU():
        yield


def denoiser(**sections: dict) -> Denoiser:
    return build_denoiser(config(pictures(), **sections), SHAPE).to(META)


def noise(stream: str = "sample") -> Tensor:
    return torch.empty(N, *SHAPE, device=META)


def encoded(model: Denoiser, given: bool) -> Cond:
    vector = torch.empty(N, int(model.network.vector_dim), device=META)
    return Cond(vector=vector) if given else Cond(vector=vector + 1)


def guided(model: Denoiser, rescale: float = 0.0) -> Guided:
    weights = [torch.tensor([1.5, 2.0, 3.0])]
    return Guided(model, [encoded(model, False), encoded(model, True)], weights, rescale, (0.0, 0.95))


def test_the_stand_in_refuses_float64():
    with pytest.raises(TypeError, match="float64"):
        torch.ones(3, device=META).double()
    assert torch.ones(3).double().dtype == torch.float64


@pytest.mark.parametrize("coefficient", [0.5, TIMES, TIMES.float(), torch.tensor(0.5, dtype=torch.float64)])
def test_coefficients_are_cast_before_they_move(coefficient):
    assert expand(coefficient, noise()).dtype == torch.float32


def test_a_coefficient_that_is_on_the_device_stays_there():
    assert expand(torch.ones(N, device=META), noise()).device == META


@pytest.mark.parametrize("prediction", ["eps", "x_0", "v"])
@pytest.mark.parametrize("learned_variance", [False, True])
def test_a_training_loss_and_its_gradients(prediction, learned_variance):
    model = denoiser(diffusion={"prediction": prediction, "learned_variance": learned_variance})
    loss = denoising_loss(model, noise(), TIMES, noise(), encoded(model, True), LossSettings(weight="min_snr"))
    loss.total.sum().backward()
    assert loss.total.shape == (N,)
    assert all(p.grad is not None and p.grad.device == META for p in model.network.parameters())


@pytest.mark.parametrize("name", [name for name in METHODS if name != "adaptive"])
def test_samplers_with_guidance(name):
    model = denoiser()
    clipped = Clipped(guided(model, rescale=0.7), "static")
    times = time_grid("trailing", model.schedule, 3)
    states = list(walk(build_sampler(name, Options("posterior")), clipped, noise(), times, lambda step: noise))
    assert states[-1].x_t.device == META


def test_a_learned_variance():
    model = denoiser(diffusion={"learned_variance": True})
    states = list(
        walk(
            build_sampler("ancestral", Options("learned")),
            guided(model),
            noise(),
            time_grid("trailing", model.schedule, 3),
            lambda step: noise,
        )
    )
    assert states[-1].x_t.device == META


def test_dynamic_clipping():
    assert Clipped(guided(denoiser()), "dynamic")(noise(), TIMES).x_0.device == META


def test_times_of_their_own():
    assert guided(denoiser(), rescale=0.7)(noise(), TIMES).x_0.shape == (N, *SHAPE)


def test_classifier_guidance():
    model = denoiser()
    wrapped = ClassifierGuided(guided(model), lambda x, t: x.flatten(1).sum(1), 2.0)
    assert wrapped(noise(), TIMES).eps.shape == (N, *SHAPE)


def test_both_orders_of_the_adaptive_solver():
    model = guided(denoiser())
    place = half_log_snr(model.schedule, TIMES)
    low, high = both_orders(model, noise(), model(noise(), TIMES), TIMES, place, torch.full((N,), 0.1).double())
    assert low.device == high.device == META


class KnownError(Adaptive):
    """An adaptive solver whose errors are known without the device."""

    def error(self, low: Tensor, high: Tensor) -> Tensor:
        return torch.tensor([0.5, 0.9, 0.1], dtype=torch.float64)


def test_the_adaptive_solver_but_for_its_error():
    model = guided(denoiser())
    t, s = (torch.tensor(value, dtype=torch.float64) for value in (0.9, 0.8))
    assert KnownError().step(model, noise(), t, s, noise)[0].device == META


def test_the_adaptive_error_is_widened_on_the_host(monkeypatch):
    monkeypatch.setattr(Tensor, "cpu", lambda self: torch.ones(self.shape, dtype=self.dtype))
    assert Adaptive().error(noise(), noise()).dtype == torch.float64


def test_filling_in():
    model = denoiser()
    sampler = RePaint(build_sampler("ddim", Options("posterior")), noise(), torch.empty(N, 1, 8, 8, device=META))
    times = torch.tensor([0.9, 0.5, 0.9, 0.0], dtype=torch.float64)
    assert list(walk(sampler, guided(model), noise(), times, lambda step: noise))[-1].x_t.device == META


def test_mixtures_of_noise():
    assert slerp(noise(), noise(), torch.linspace(0, 1, N)).dtype == torch.float32


def test_a_continuous_schedule():
    model = denoiser(schedule={"kind": "continuous_cosine"}, diffusion={"time": "log_snr"})
    assert guided(model)(noise(), TIMES).x_0.device == META

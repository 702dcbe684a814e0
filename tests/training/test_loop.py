from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from alphabar.diffusion.loss import loss_weight
from alphabar.errors import NonFiniteError
from alphabar.settings.training import TrainSettings
from alphabar.training.draw import batch_indices
from alphabar.training.step import Trainer
from alphabar.training.updater import learning_rate

from .small import config, pictures, two_moons


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {
        f"{part}.{name}": value.clone() for part, tensors in trainer.state().items() for name, value in tensors.items()
    }


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


VARIANTS = {
    "plain": {},
    "importance": {"loss": {"times": "importance"}, "schedule": {"kind": "cosine", "steps": 3}},
    "learned": {"diffusion": {"learned_variance": True}, "loss": {"times": "stratified"}},
    "v": {
        "diffusion": {"prediction": "v", "time": "log_snr"},
        "loss": {"weight": "min_snr"},
        "schedule": {"zero_terminal_snr": True},
    },
    "flip": {"data": {"flip": True}, "train": {"accumulate": 2}},
    "dropout": {"network": {"dropout": 0.3}},
    "muon": {"train": {"optimizer": "muon", "weight_decay": 0.1}},
    "cosine-rate": {"train": {"rate": "cosine", "weight_decay": 0.1}},
    "continuous": {"schedule": {"kind": "continuous_cosine"}, "diffusion": {"time": "log_snr"}},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_resume_is_exact(variant):
    """Law 4: 2N steps equal N + save + load in a new trainer + N, bit for bit."""
    data = pictures()
    settings = config(data, **VARIANTS[variant])
    straight = Trainer(settings, data)
    for _ in range(6):
        straight.step()
    first, second = Trainer(settings, data), Trainer(settings, data)
    for _ in range(3):
        first.step()
    torch.manual_seed(12345)  # the global generator must not matter
    saved = {part: {name: value.clone() for name, value in tensors.items()} for part, tensors in first.state().items()}
    second.load_state(3, **saved)
    for _ in range(3):
        second.step()
    assert_same(weights(straight), weights(second))


def test_accumulation_gives_the_gradient_of_the_whole_batch():
    data = pictures()
    whole, parts = Trainer(config(data), data), Trainer(config(data, train={"accumulate": 4}), data)
    reports = [trainer.step() for trainer in (whole, parts)]
    assert reports[0].loss == pytest.approx(reports[1].loss, rel=1e-5)
    assert reports[0].gradient_norm == pytest.approx(reports[1].gradient_norm, rel=1e-4)
    assert torch.equal(reports[0].times, reports[1].times)


def test_every_epoch_visits_each_picture_once_in_a_new_order():
    n, batch = 10, 4
    seen = np.concatenate([batch_indices(n, batch, 0, step) for step in range(5)])
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert list(seen[:10]) != list(seen[10:])
    assert len(batch_indices(3, 8, 0, 0)) == 8
    assert sorted(batch_indices(3, 6, 0, 0)) == [0, 0, 1, 1, 2, 2]


def test_rate_warms_up_then_stays_or_falls():
    constant = TrainSettings(steps=100, warm_up=9, learning_rate=1.0)
    assert [learning_rate(constant, s) for s in (0, 4, 9, 99)] == pytest.approx([0.1, 0.5, 1, 1])
    cosine = constant.model_copy(update={"rate": "cosine"})
    assert learning_rate(cosine, 9) == pytest.approx(1)
    assert learning_rate(cosine, 9 + 91 // 2) == pytest.approx(0.5, abs=0.02)
    assert learning_rate(cosine, 99) < 1e-3


def test_a_non_finite_loss_stops_before_the_weights():
    data = pictures()
    trainer = Trainer(config(data), data)
    trainer.step()
    before = weights(trainer)
    bias = trainer.denoiser.network.conv_out.bias
    kept = bias.data.clone()
    bias.data.fill_(math.inf)
    with pytest.raises(NonFiniteError, match=r"step 2: .*weights were not touched"):
        trainer.step()
    bias.data.copy_(kept)
    assert_same(before, weights(trainer))
    assert trainer.steps_done == 1


def test_a_non_finite_gradient_stops_too():
    data = pictures()
    trainer = Trainer(config(data), data)
    before = weights(trainer)
    trainer.denoiser.network.conv_out.bias.register_hook(lambda g: g * math.nan)
    with pytest.raises(NonFiniteError, match="in the gradient only"):
        trainer.step()
    assert_same(before, weights(trainer))


def test_the_label_is_hidden_at_its_rate_and_reaches_the_network():
    data = pictures(400)
    trainer = Trainer(
        config(data, conditions={"class": {"classes": ["even", "odd"], "dropout": 0.5}}, train={"batch_size": 400}),
        data,
    )
    trainer.step()
    used = trainer.denoiser.encoders.kinds["class"].embedding.weight.grad.abs().sum(1)
    assert (used > 0).all()  # both classes and null
    share = replace(trainer.chance, n=10_000).dropped(0)["class"].double().mean().item()
    assert share == pytest.approx(0.5, abs=0.03)


def test_training_moves_the_weights_the_average_follows_and_the_loss_falls():
    data = pictures(8)
    trainer = Trainer(config(data, train={"learning_rate": 3e-3, "steps": 60}), data)
    start = weights(trainer)
    losses = [trainer.step().loss for _ in range(60)]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:5])
    assert not torch.equal(start["ema.network.conv_in.weight"], weights(trainer)["ema.network.conv_in.weight"])


def test_validation_loss_uses_the_same_noise_each_time_and_the_averaged_weights():
    data, held_out = pictures(), pictures(12, seed=1)
    trainer = Trainer(config(data), data)
    first = trainer.validation_loss(held_out, 100)
    assert first == trainer.validation_loss(held_out, 100)
    trainer.denoiser.network.conv_out.bias.data.add_(1)
    assert first == trainer.validation_loss(held_out, 100)
    trainer.average.network.conv_out.bias.data.add_(1)
    assert first != trainer.validation_loss(held_out, 100)
    assert trainer.validation_loss(held_out, 0) is None


def test_a_module_of_the_users_own_trains_on_points_to_the_right_place():
    """An MLP learns two moons in seconds: samples lie near the curve, and on both moons."""
    from alphabar.generation.pipeline import Pipeline
    from alphabar.samplers.base import last_state

    data = two_moons(4000)
    settings = config(
        data,
        network={"kind": "mlp", "width": 64, "layers": 3},
        schedule={"kind": "cosine", "steps": 100},
        train={"batch_size": 256, "learning_rate": 3e-3, "steps": 600},
    )
    trainer = Trainer(settings, data)
    for _ in range(600):
        trainer.step()
    pipeline = Pipeline(trainer.average, data.shape).with_settings(steps=100)
    points = last_state(pipeline.states(range(1000))).x_t
    real = two_moons(2000, seed=1).points
    distance = torch.cdist(points, real).min(1).values
    coverage = torch.cdist(real, points).min(1).values
    assert distance.quantile(0.9) < 0.12
    assert coverage.quantile(0.99) < 0.25


def test_importance_follows_the_loss_that_is_minimised():
    data = pictures()
    trainer = Trainer(config(data, loss={"times": "importance", "weight": "min_snr"}), data)
    given = []
    trainer.times.update = lambda t, losses: given.append((t, losses))
    report = trainer.step()
    weight = loss_weight("min_snr", "eps", trainer.denoiser.schedule.snr(report.times))
    torch.testing.assert_close(given[0][1], (weight * report.squared_errors).float(), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(given[0][1], report.squared_errors)

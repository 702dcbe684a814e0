"""From what is asked to pictures: conditions, guidance and classifiers through the pipeline."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from alphabar.diffusion.schedule import Time
from alphabar.errors import ConfigurationError
from alphabar.generation.pipeline import Pipeline
from alphabar.model import build_denoiser

from .training.small import config, two_moons


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    """An untrained model of classes and captions whose conditions make a difference."""
    settings = config(conditions={"class": {"classes": ["cat", "dog"]}, "text": {"width": 32, "layers": 1}})
    denoiser = build_denoiser(settings, (1, 8, 8)).requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for parameter in denoiser.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return Pipeline(denoiser, (1, 8, 8)).with_settings(steps=4)


def made(pipeline: Pipeline, **asked: object) -> np.ndarray:
    return pipeline.sample(3, seed=5, **asked).pictures  # type: ignore[arg-type]


def test_each_condition_makes_a_difference(pipeline):
    nothing = made(pipeline, label=[None] * 3)
    pictures = [made(pipeline, label="cat"), made(pipeline, label="dog"), made(pipeline, prompt="a cat"), nothing]
    pictures.append(made(pipeline, label="cat", prompt="a cat"))
    assert all((a != b).any() for i, a in enumerate(pictures) for b in pictures[:i])


def test_weight_one_is_plain_and_weight_zero_asks_for_nothing(pipeline):
    plain = made(pipeline, label="cat", prompt="a cat")
    assert (made(pipeline, label="cat", prompt="a cat", guidance=1.0) == plain).all()
    nothing = made(pipeline, label=[None] * 3)
    assert (made(pipeline, label="cat", prompt="a cat", guidance=0.0) == nothing).all()
    only_class = made(pipeline, label="cat", prompt="a cat", guidance={"text": 0.0})
    assert np.abs(only_class.astype(int) - made(pipeline, label="cat")).max() <= 1
    assert (made(pipeline, label="cat", prompt="a cat", guidance={"text": 4.0}) != plain).any()


def test_an_empty_prompt_is_no_prompt(pipeline):
    assert (made(pipeline, prompt="", label="dog") == made(pipeline, label="dog")).all()


def test_a_picture_does_not_depend_on_its_neighbours_conditions(pipeline):
    together = pipeline.sample(
        seeds=[1, 2], prompt=["a", "a much longer caption than the other"], guidance=3.0
    ).pictures
    alone = pipeline.sample(seeds=[1], prompt="a", guidance=3.0).pictures
    assert np.abs(together[:1].astype(int) - alone).max() <= 1


def test_a_guidance_for_each_picture(pipeline):
    asked = pipeline.ask(2, {"class": "cat"}, guidance=[1.0, 5.0])
    pictures = next(iter(pipeline.stream([7, 7], asked))).pictures
    assert np.abs(pictures[0].astype(int) - pipeline.sample(seeds=[7], label="cat").pictures[0]).max() <= 1
    strong = pipeline.sample(seeds=[7], label="cat", guidance=5.0).pictures[0]
    assert np.abs(pictures[1].astype(int) - strong).max() <= 1


@pytest.mark.parametrize(
    ("given", "guidance", "settings", "passes"),
    [
        ({"class": "cat", "text": "a"}, None, {}, 1),
        ({"class": "cat", "text": "a"}, None, {"guidance": 3.0}, 2),  # of u, c_1, c_12 the second cancels
        ({"class": "cat", "text": "a"}, None, {"guidance": {"class": 3.0, "text": 2.0}}, 3),
        ({"class": "cat", "text": "a"}, [1.0, 5.0], {}, 2),
        ({"class": "cat"}, None, {"guidance": 3.0, "guidance_interval": (0.1, 0.7)}, 2),
        ({"class": "cat"}, None, {"guidance": 0.0}, 1),
        ({"class": "cat"}, None, {"guidance": 0.0, "guidance_rescale": 0.5}, 2),
        ({"class": [None, None]}, None, {"guidance": {"text": 3.0}}, 1),
        ({}, None, {"guidance": 3.0}, 2),  # classes in turn
    ],
)
def test_a_batch_fits_with_the_passes_that_guidance_takes(pipeline, monkeypatch, given, guidance, settings, passes):
    own = pipeline.with_settings(**settings)
    asked = own.ask(2, given, guidance)
    most: list[int] = []
    forward = pipeline.denoiser.network.forward

    def watched(x: Tensor, *more: Any) -> Tensor:
        most.append(len(x))
        return forward(x, *more)

    monkeypatch.setattr(pipeline.denoiser.network, "forward", watched)
    list(own.stream([1, 2], asked, batch=2))
    assert max(most) == 2 * passes
    monkeypatch.setattr("alphabar.generation.pipeline.activation_bytes", lambda *arguments: 1000)
    monkeypatch.setattr("alphabar.generation.pipeline.available_memory", lambda: 4 * 12 * 1000.0)
    assert own.fitting_batch(asked) == 12 // passes


def test_a_classifier_of_ones_own_guides(pipeline):
    def bright(x_t: Tensor, t: Time) -> Tensor:
        return 3 * x_t.flatten(1).sum(1)

    assert made(pipeline, label="cat", classifier=bright).mean() > made(pipeline, label="cat").mean() + 5


def test_the_record_tells_what_was_asked_and_how_it_was_guided(pipeline):
    samples = pipeline.sample(2, label=["cat", None], prompt="猫", guidance={"class": 2.0, "text": 3.0})
    assert samples.asked == [{"class": "cat", "text": "猫"}, {"text": "猫"}]
    assert samples.record["guidance"] == {"class": 2.0, "text": 3.0}
    assert "guidance" not in pipeline.sample(1).record
    interval = pipeline.with_settings(
        guidance=2.0, guidance_interval=(0.2, 0.7), guidance_rescale=0.5
    ).sampling_record()
    assert (interval["guidance_interval"], interval["guidance_rescale"]) == ((0.2, 0.7), 0.5)


def test_estimates_are_clipped_by_the_data_unless_it_is_set(pipeline):
    mlp = config(two_moons(8), network={"kind": "mlp"}, diffusion={"prediction": "v"})
    points = Pipeline(build_denoiser(mlp, (2,)), (2,))
    points.denoiser.requires_grad_(False)
    x_t = 5 * torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    widest = {
        clip: float(points.with_settings(clip=clip).conditioned(50)(x_t, 0.5).x_0.abs().max())
        for clip in (None, "off", "static")
    }
    assert widest[None] == widest["off"] > 1 == widest["static"]
    for model, default in ((pipeline, "static"), (points, "off")):
        assert model.settings.clip is None
        assert model.sampling_record()["clip"] == default
        for clip in ("static", "dynamic", "off"):
            assert model.with_settings(clip=clip).sampling_record()["clip"] == clip


def test_a_number_of_pictures_that_disagrees_with_the_seeds_is_refused(pipeline):
    with pytest.raises(
        ConfigurationError, match=r"got n = 16 and 2 seeds, expected a seed for each picture; leave n out"
    ):
        pipeline.sample(16, seeds=[1, 2])
    assert pipeline.sample(2, seeds=[1, 2]).seeds == pipeline.sample(seeds=[1, 2]).seeds == [1, 2]


def test_without_anything_asked_the_classes_take_turns(pipeline):
    assert pipeline.sample(3).classes == ["cat", "dog", "cat"]
    assert pipeline.sample(2, prompt="x").classes == [None, None]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"map": np.zeros((8, 8), np.uint8)}, "not trained with map; it accepts: class, text"),
        ({"guidance": {"image": 2.0}}, "not trained with image"),
        ({"label": "bird"}, "does not know the class 'bird'"),
        ({"prompt": ["a", "b"]}, "2 inputs for 3 pictures"),
        ({"prompt": 3}, "must be text"),
    ],
)
def test_what_the_model_cannot_do_is_refused(pipeline, asked, message):
    with pytest.raises(ConfigurationError, match=message):
        made(pipeline, **asked)


def test_an_interval_that_is_none_is_refused(pipeline):
    with pytest.raises(ConfigurationError, match="0 <= from < to <= 1"):
        pipeline.with_settings(guidance_interval=(0.8, 0.2))


def test_another_sampler_leaves_the_options_of_the_saved_one_behind(pipeline):
    pipeline = pipeline.with_settings(sampler="ancestral", variance="beta")
    assert pipeline.with_settings(sampler="unipc").sampling_record()["sampler"] == "unipc"
    assert pipeline.with_settings(sampler="auto").picked
    with pytest.raises(ConfigurationError, match="variance is a setting of sampler=ancestral"):
        pipeline.with_settings(sampler="unipc", variance="beta")


def test_a_tuple_of_classes_is_a_list_of_them_and_no_pictures_are_refused(pipeline):
    pictures = [pipeline.sample(label=of, seed=5).pictures for of in (("cat", "dog"), ["cat", "dog"])]
    assert (pictures[0] == pictures[1]).all()
    for n in (0, -1):
        with pytest.raises(ConfigurationError, match=f"give n >= 1, got {n}"):
            pipeline.sample(n)

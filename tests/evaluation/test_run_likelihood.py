"""Both likelihoods of a run: the same in any batch, given what the pictures have, in float32, with a record that repeats them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from alphabar.diffusion.denoiser import Denoiser
from alphabar.engine.ways import Way, way_of, with_way
from alphabar.errors import NonFiniteError
from alphabar.evaluation.likelihood import ode_bits, variational_bound
from alphabar.evaluation.pictures import RealPictures, real_pictures
from alphabar.evaluation.run_likelihood import Options, check_finite, measure_likelihood
from alphabar.generation.pipeline import Pipeline, load
from alphabar.runs.checkpoint import find_checkpoint
from alphabar.samplers.clip import Clipped

FEW = Options(bound_steps=5, ode_steps=6)


@pytest.fixture(scope="module")
def model(run) -> Pipeline:
    """The run's model with weights where training starts with zeros."""
    pipeline = load(run)
    torch.manual_seed(0)
    for parameter in pipeline.denoiser.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return pipeline


@pytest.fixture(scope="module")
def real(run) -> RealPictures:
    return real_pictures(find_checkpoint(run), n=5)


def test_a_picture_has_the_same_value_in_any_batch(model, real):
    whole = measure_likelihood(model, real, FEW)
    parts = measure_likelihood(model, real, replace(FEW, batch=2))
    assert whole.bound.terms.shape == (5, 5)
    torch.testing.assert_close(parts.bound.total, whole.bound.total, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(parts.ode, whole.ode, rtol=1e-5, atol=1e-5)
    assert (measure_likelihood(model, real, replace(FEW, seed=1)).ode != whole.ode).all()


def test_it_is_of_the_conditioned_model_clipped_for_the_bound_and_not_for_the_ode(model, real):
    denoiser, measured = model.denoiser, measure_likelihood(model, real, FEW)
    x_0, cond, indices = real.batch(slice(0, 5), denoiser, 0)
    bound = variational_bound(Clipped(denoiser, "static"), x_0, cond, steps=5, indices=indices)
    torch.testing.assert_close(measured.bound.total, bound.total)
    torch.testing.assert_close(measured.ode, ode_bits(denoiser, x_0, cond, steps=6, indices=indices))
    unclipped = variational_bound(denoiser, x_0, cond, steps=5, indices=indices)
    assert (unclipped.total > bound.total).all()
    without = ode_bits(denoiser, x_0, denoiser.encode({}, 5), steps=6, indices=indices)
    assert (without != measured.ode).all()


def test_the_pipelines_variance_and_clip_are_the_bounds(model, real):
    plain = measure_likelihood(model, real, FEW)
    beta = measure_likelihood(model.with_settings(variance="beta", clip="off"), real, FEW)
    assert (beta.bound.decoder != plain.bound.decoder).all()
    assert (beta.record["variance"], beta.record["clip"]) == ("beta", "off")
    assert torch.equal(beta.ode, plain.ode)


def test_it_computes_in_float32_and_leaves_the_model_as_it_was(model, real):
    expected = measure_likelihood(model, real, FEW)
    low = model.with_denoiser(with_way(model.denoiser, Way("bfloat16"))).rounded()
    torch.testing.assert_close(measure_likelihood(low, real, FEW).ode, expected.ode, rtol=0, atol=0)
    assert way_of(low.denoiser) == Way("bfloat16")


def test_the_result_as_plain_values_holds_every_mean_step_and_picture(model, real):
    measured = measure_likelihood(model, real, FEW)
    told = json.loads(json.dumps(measured.to_json()))
    assert told["unit"] == "bits per dimension"
    assert len(told["per_step"]) == 5
    assert sum(told["per_step"]) + told["prior"]["mean"] == pytest.approx(told["bound"]["mean"])
    assert told["per_step"][0] == pytest.approx(told["decoder"]["mean"])
    assert sum(told["each"]["ode"]) / 5 == pytest.approx(told["ode"]["mean"])
    error = torch.tensor(told["each"]["bound"], dtype=torch.float64).std() / 5**0.5
    assert told["bound"]["standard_error"] == pytest.approx(float(error))
    record = told["record"]
    assert record["model"] == model.record["model"]
    assert record["indices"] == real.indices
    assert record | {"seed": 0, "probes": 1, "bound_steps": 5, "ode_steps": 6, "precision": "float32"} == record
    assert record["conditions"] == ["class", "text"]


def test_every_step_is_reported_with_its_number_of_pictures(model, real):
    done = {"bound": 0, "ode": 0}

    def count(what: str, n: int) -> None:
        done[what] += n

    measure_likelihood(model, real, replace(FEW, batch=2), count)
    assert done == {"bound": 25, "ode": 30}


def test_all_steps_of_the_table_are_the_default(model, real):
    assert measure_likelihood(model, real, replace(FEW, bound_steps=None, ode_steps=2)).record["bound_steps"] == 25


def test_one_picture_has_no_standard_error(model, run):
    measured = measure_likelihood(model, real_pictures(find_checkpoint(run), n=1), FEW)
    assert measured.to_json()["ode"]["standard_error"] is None


def test_a_value_that_is_not_finite_is_an_error_that_names_the_picture(model, real):
    measured = measure_likelihood(model, real, FEW)
    measured.ode[3] = float("inf")
    with pytest.raises(NonFiniteError, match=rf"ODE's value of picture {real.data.names[3]} \(and of 1 in all\)"):
        check_finite(measured, real)


def test_long_work_takes_the_fastest_kernels_and_gives_the_same(model, real, monkeypatch):
    plain, asked = measure_likelihood(model, real, FEW), list[int]()

    def settle(denoiser: Denoiser, shape: object, evaluations: int, precision: None) -> tuple[Denoiser, None]:
        assert way_of(denoiser) == Way()
        asked.append(evaluations)
        return with_way(denoiser, Way(kernels="fused")), None

    monkeypatch.setattr("alphabar.engine.speed.settle_sampling", settle)
    monkeypatch.setattr("alphabar.engine.speed.MANY_EVALUATIONS", 55)
    fused = measure_likelihood(model, real, FEW)
    assert asked == [5 * (5 + 6)]
    assert way_of(model.denoiser) == Way()  # as before
    torch.testing.assert_close(fused.bound.total, plain.bound.total, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(fused.ode, plain.ode, rtol=1e-4, atol=1e-4)
    assert (fused.ode != plain.ode).any()

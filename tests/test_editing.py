"""Editing: what is known stays, what is drawn fits it, pictures go to noise and back. With ideal denoisers where a law has a closed form."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from alphabar.data.pictures import to_signed, to_uint8
from alphabar.diffusion.denoiser import Denoiser
from alphabar.diffusion.gaussian import expand
from alphabar.diffusion.parameterization import Prediction, eps_from_x_0
from alphabar.diffusion.schedule import build_schedule
from alphabar.errors import ConfigurationError, DataError
from alphabar.generation import editing
from alphabar.generation.pipeline import Pipeline
from alphabar.model import build_denoiser
from alphabar.samplers.ancestral import Ancestral
from alphabar.samplers.base import last_state, seeded_noises, walk
from alphabar.samplers.ddim import DDIM
from alphabar.samplers.grids import time_grid
from alphabar.samplers.methods import METHODS, Options, build_sampler
from alphabar.samplers.repaint import RePaint, with_returns
from alphabar.settings.base import DiffusionSettings, SampleSettings, ScheduleSettings

from .training.small import config

LINEAR, ZERO = ScheduleSettings(), ScheduleSettings(kind="cosine", zero_terminal_snr=True)


class FullGaussian:
    """x_0 ~ N(mean, covariance), of any shape with D numbers: the exact E[x_0 | x_t] as a denoiser. mean (D,), covariance (D, D).

    E[x_0 | x_t] = m + a C (a^2 C + b^2 I)^-1 (x_t - a m), in C's eigenvectors.
    """

    def __init__(self, schedule, mean, covariance):
        self.schedule, self.mean = schedule, mean.double()
        self.variances, self.axes = torch.linalg.eigh(covariance.double())

    def __call__(self, x_t, t, cond=None):
        a, b = self.schedule.signal(t).reshape(-1, 1), self.schedule.noise(t).reshape(-1, 1)
        along = (x_t.flatten(1).double() - a * self.mean) @ self.axes
        gain = a * self.variances / (a**2 * self.variances + b**2)
        x_0 = (self.mean + (gain * along) @ self.axes.T).reshape(x_t.shape).to(x_t.dtype)
        return Prediction(x_0, eps_from_x_0(x_t, x_0, a[:, 0], b[:, 0]))

    def noise_of(self, x_0, t):
        """Where the probability-flow ODE takes x_0 (N, D): (x_t - a m) / sqrt(a^2 C + b^2 I) stays what it is."""
        a, b = self.schedule.signal(t), self.schedule.noise(t)
        along = (x_0.double() - self.mean) @ self.axes
        return a * self.mean + (along * ((a**2 * self.variances + b**2) / self.variances).sqrt()) @ self.axes.T


class ExactNetwork(nn.Module):
    """The exact denoiser as a network that predicts v, so that a pipeline can be built around it."""

    def __init__(self, exact):
        super().__init__()
        self.exact, self.place = exact, nn.Parameter(torch.zeros(1))

    def forward(self, x, time, cond):
        t = (time.double() + 1) / self.exact.schedule.steps
        said = self.exact(x, t)
        return expand(self.exact.schedule.signal(t), x) * said.eps - expand(self.exact.schedule.noise(t), x) * said.x_0


def smooth(shape, length=1.5, deviation=0.25):
    """Mean and covariance of smooth random pictures (C, H, W) with a little grain: neighbours are alike, channels independent."""
    places = torch.stack(
        torch.meshgrid(*[torch.arange(n).double() * (9 if i == 0 else 1) for i, n in enumerate(shape)], indexing="ij")
    )
    distance = torch.cdist(places.flatten(1).T, places.flatten(1).T)
    covariance = deviation**2 * torch.exp(-0.5 * (distance / length) ** 2) + 0.1**2 * torch.eye(len(distance))
    return 0.2 * torch.sin(places.flatten(1).sum(0)), covariance


def exact_pipeline(schedule=LINEAR, shape=(1, 4, 4), **settings):
    exact = FullGaussian(build_schedule(schedule), *smooth(shape))
    denoiser = Denoiser(ExactNetwork(exact), exact.schedule, DiffusionSettings(prediction="v")).requires_grad_(False)
    return Pipeline(denoiser, shape, SampleSettings(**settings))


def exact_of(pipeline):
    return pipeline.denoiser.network.exact


def drawn(pipeline, n, seed=0):
    """Pictures of the data itself, on the 8-bit levels that pictures of files have."""
    exact = exact_of(pipeline)
    z = torch.randn(n, len(exact.mean), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = exact.mean + (z * exact.variances.sqrt()) @ exact.axes.T
    return to_signed(to_uint8(x.reshape(n, *pipeline.shape).float()))


def levels(one, other):
    """The largest difference in 8-bit levels."""
    return int(np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int)).max())


def apart(one, other):
    """The root mean square difference in 8-bit levels."""
    return float(np.sqrt(np.square(np.asarray(one).astype(int) - np.asarray(other).astype(int)).mean()))


@pytest.fixture(scope="module")
def classes():
    """An untrained model of two classes whose condition makes a difference."""
    denoiser = build_denoiser(config(conditions={"class": {"classes": ["cat", "dog"]}}), (3, 8, 8)).requires_grad_(
        False
    )
    generator = torch.Generator().manual_seed(1)
    for parameter in denoiser.parameters():
        parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return Pipeline(denoiser, (3, 8, 8), SampleSettings(steps=6))


def random_pictures(n, shape=(3, 8, 8), seed=0):
    return to_signed(np.random.default_rng(seed).integers(0, 256, (n, *shape[1:], shape[0]), dtype=np.uint8))


# filling in


@pytest.mark.parametrize("sampler", [{}, {"sampler": "ancestral", "variance": "beta"}, {"eta": 0.0}, {"eta": 0.7}])
def test_what_is_known_comes_back_to_the_bit_and_only_the_mask_is_filled(classes, sampler):
    pictures, g = random_pictures(6), torch.Generator().manual_seed(3)
    masks = (torch.rand(6, 1, 8, 8, generator=g) < torch.tensor([0.02, 0.2, 0.5, 0.8, 0.98, 1]).reshape(6, 1, 1, 1)).float()  # fmt: skip
    masks[0, 0, 3, 5] = 1
    pipeline = classes.with_settings(**sampler)
    made = editing.inpaint(pipeline, pictures, masks, range(6), resamplings=2, jump=3).run()
    known = (masks == 0).expand_as(pictures).permute(0, 2, 3, 1).numpy()
    assert made.pictures.dtype == np.uint8
    assert np.array_equal(made.pictures[known], to_uint8(pictures)[known])
    assert (made.pictures != to_uint8(pictures))[~known].mean() > 0.9
    assert made.record["edit"] == "inpaint"
    assert made.record["sampler"] == ("ddim" if "eta" in sampler else "ancestral")


def test_a_filled_picture_is_its_seeds_in_any_batch(classes):
    pictures, masks = random_pictures(3), torch.ones(3, 1, 8, 8)
    masks[..., :4] = 0
    together = editing.inpaint(classes, pictures, masks, [5, 6, 7]).run().pictures
    alone = editing.inpaint(classes, pictures[1:2], masks[1:2], [6]).run().pictures
    assert levels(together[1:2], alone) <= 1
    assert levels(together[1:2], editing.inpaint(classes, pictures[1:2], masks[1:2], [8]).run().pictures) > 1


KNOWN, FILLED = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
MEAN, COVARIANCE = torch.tensor([0.2, -0.1]), torch.tensor([[0.25, 0.2], [0.2, 0.25]])
GIVEN = 0.9
CONDITIONAL = -0.1 + 0.2 / 0.25 * (GIVEN - 0.2)


def as_pictures(x):
    return x.reshape(-1, 1, 1, 2)


def painting(sampler, n, dtype=torch.float64):
    """RePaint of n pictures of two pixels, the first one known."""
    return RePaint(
        sampler, as_pictures((GIVEN * KNOWN).expand(n, 2)).to(dtype), as_pictures(FILLED.expand(n, 2)).to(dtype)
    )


def recursion(sampler, exact, times):
    """Mean and covariance of the two pixels along the way: each step is x_s = P x_t + S z + K z' + c, read off at seven points."""
    points, repaint = torch.cat([torch.zeros(1, 6), torch.eye(6)]).double(), painting(sampler, 7)
    x, z, known = (as_pictures(points[:, i : i + 2]) for i in (0, 2, 4))
    m, cov, past = torch.zeros(2).double(), torch.eye(2).double(), []
    for t, s in pairwise(times):
        out, visit = repaint.step(exact, x, t, s, lambda stream="sample": known if stream == "known" else z, past)
        past, out = [visit], out.reshape(7, 2)
        matrix, kick = (out[1:3] - out[0]).T, (out[3:] - out[0]).T
        m, cov = matrix @ m + out[0], matrix @ cov @ matrix.T + kick @ kick.T
    return m, cov


@pytest.mark.parametrize("make", [Ancestral, DDIM, lambda: DDIM(0.5)], ids=["ancestral", "ddim", "ddim-0.5"])
def test_filling_in_follows_its_closed_form_recursion(make):
    """Standard errors: mean sqrt(v / n), variance v sqrt(2 / n); bounds at 5 of them."""
    exact = FullGaussian(build_schedule(LINEAR), MEAN, COVARIANCE)
    times, n = with_returns(time_grid("trailing", exact.schedule, 7), 3, 2), 1000
    mean, cov = recursion(make(), exact, times)
    noises = seeded_noises(range(n), (1, 1, 2))
    x = last_state(walk(painting(make(), n, torch.float32), exact, noises(0)(), times, noises)).x_t.reshape(n, 2)
    v = cov[1, 1].item()
    assert x[:, 1].mean().item() == pytest.approx(mean[1].item(), abs=5 * math.sqrt(v / n))
    assert x[:, 1].var().item() == pytest.approx(v, abs=5 * v * math.sqrt(2 / n))
    torch.testing.assert_close(x[:, 0], torch.full((n,), GIVEN))


@pytest.mark.parametrize("make", [Ancestral, DDIM])
def test_what_is_filled_in_comes_nearer_to_its_mean_given_the_known_with_more_resamplings(make):
    exact = FullGaussian(build_schedule(LINEAR), MEAN, COVARIANCE)
    grid = time_grid("trailing", exact.schedule, 40)
    errors = [
        abs(recursion(make(), exact, with_returns(grid, 1, count))[0][1].item() - CONDITIONAL) for count in (1, 3, 9)
    ]
    assert errors[0] > 1.5 * errors[1] > 2 * errors[2]
    assert errors[2] < 0.1 * abs(CONDITIONAL - MEAN[1].item())
    once = recursion(make(), exact, grid)[0][1].item()
    assert MEAN[1].item() + 0.1 < once < CONDITIONAL  # even the plain way hears of the known part


@pytest.mark.parametrize(
    ("jump", "resamplings", "expected"),
    [
        (2, 1, [5, 4, 3, 2, 1, 0]),
        (1, 2, [5, 4, 5, 4, 3, 4, 3, 2, 3, 2, 1, 2, 1, 0, 1, 0]),
        (2, 2, [5, 4, 3, 5, 4, 3, 2, 1, 3, 2, 1, 0, 1, 0]),
        (2, 3, [5, 4, 3, 5, 4, 3, 5, 4, 3, 2, 1, 3, 2, 1, 3, 2, 1, 0, 1, 0, 1, 0]),
        (9, 2, [5, 4, 3, 2, 1, 0, 5, 4, 3, 2, 1, 0]),
    ],
)
def test_the_way_with_returns_is_the_one_expected(jump, resamplings, expected):
    times = torch.arange(5, -1, -1, dtype=torch.float64) / 5
    assert (with_returns(times, jump, resamplings) * 5).round().int().tolist() == expected


@pytest.mark.parametrize(("jump", "resamplings"), [(1, 1), (1, 7), (3, 2), (5, 5), (20, 3)])
def test_every_stretch_is_gone_as_often_as_asked_and_the_way_ends_at_data(jump, resamplings):
    times = time_grid("trailing", build_schedule(LINEAR), 13)
    way = with_returns(times, jump, resamplings).tolist()
    down = [(t, s) for t, s in pairwise(way) if s < t]
    assert {step: down.count(step) for step in pairwise(times.tolist())} == dict.fromkeys(
        pairwise(times.tolist()), resamplings
    )
    assert len(down) == 13 * resamplings
    assert way[-1] == 0
    assert sum(s > t for t, s in pairwise(way)) == -(-13 // jump) * (resamplings - 1)


@pytest.mark.parametrize(("jump", "resamplings"), [(0, 2), (2, 0), (-1, 1)])
def test_returns_that_cannot_be_are_refused(jump, resamplings):
    with pytest.raises(ConfigurationError, match="at least 1"):
        with_returns(torch.tensor([1.0, 0.0]).double(), jump, resamplings)


@pytest.mark.parametrize("name", METHODS)
def test_only_methods_without_memory_fill_in(name):
    sampler = build_sampler(name, Options())
    if sampler.memory:
        with pytest.raises(ConfigurationError, match=f"{type(sampler).__name__} remembers earlier steps"):
            painting(sampler, 1)
    else:
        assert painting(sampler, 1).stochastic


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("ancestral", "ddim")])
def test_a_sampler_that_is_set_but_cannot_fill_in_is_refused(classes, name):
    with pytest.raises(ConfigurationError, match=f"sampler ancestral or ddim; got {name.replace('+', '.')}"):
        editing.inpaint(classes.with_settings(sampler=name), random_pictures(1), torch.ones(1, 1, 8, 8), [0])


def test_a_tolerance_that_is_set_is_refused_too(classes):
    with pytest.raises(ConfigurationError, match="got adaptive"):
        editing.one_step(classes.with_settings(tolerance=0.1))


def test_filling_in_keeps_the_number_of_steps_and_the_options_that_were_set(classes):
    plain = Pipeline(classes.denoiser, classes.shape)
    assert (editing.one_step(plain).steps, editing.one_step(plain).method.sampler) == (plain.steps, "ancestral")
    assert editing.one_step(plain.with_settings(eta=0.3)).sampler().eta == 0.3
    assert editing.one_step(plain.with_settings(variance="beta")).sampler().variance == "beta"


def test_a_mask_with_nothing_to_fill_is_refused(classes):
    masks = torch.zeros(2, 1, 8, 8)
    masks[0] = 1
    with pytest.raises(ConfigurationError, match="a mask has nothing to fill: it must be white somewhere"):
        editing.inpaint(classes, random_pictures(2), masks, [0, 1])


# from a picture


@pytest.mark.parametrize("strength", [0.2, 0.5, 0.8])
def test_a_picture_is_kept_by_the_share_that_the_closed_form_says(strength):
    """Noised to t and taken back along the ODE, x - m becomes sqrt(C / (a^2 C + b^2 I)) (a (x - m) + b z), in mean over z."""
    pipeline, n = exact_pipeline(steps=60, sampler="dpm++2m", grid="log_snr", clip="off"), 400
    exact, picture = exact_of(pipeline), drawn(pipeline, 1) + 0.3
    plan = editing.image_to_image(pipeline, picture.expand(n, -1, -1, -1), strength, range(n))
    x = last_state(plan.states).x_t.flatten(1).double()
    t = editing.times_from(pipeline, strength)[0]
    a, b = exact.schedule.signal(t), exact.schedule.noise(t)
    spread = (exact.variances / (a**2 * exact.variances + b**2)).sqrt()
    expected = ((picture.flatten(1) - exact.mean) @ exact.axes) * spread * a
    found = (x - exact.mean) @ exact.axes
    error = 5 * spread * b / math.sqrt(n) + 0.01
    assert ((found.mean(0) - expected).abs() < error).all()
    assert ((found.std(0) / (spread * b) - 1).abs() < 5 / math.sqrt(2 * n) + 0.05).all()


def test_little_strength_keeps_the_picture_and_the_whole_forgets_it():
    pipeline = exact_pipeline()
    pictures = drawn(pipeline, 16)
    start = editing.times_from(pipeline, 0.01)[0]
    noise = 127.5 * float(pipeline.denoiser.schedule.noise(start))  # the posterior's mean is nearer than that
    nearly = editing.image_to_image(pipeline, pictures, 0.01, range(16)).run().pictures
    assert apart(nearly, to_uint8(pictures)) < noise
    one, other = (editing.image_to_image(pipeline, x, 1.0, range(16)).run().pictures for x in (pictures, -pictures))
    assert levels(one, other) <= 3
    assert apart(one, to_uint8(pictures)) > 3 * noise


@pytest.mark.parametrize("grid", ["trailing", "quadratic", "log_snr", "karras", "few", "leading", "linspace"])
def test_it_starts_at_the_time_of_the_grid_that_is_nearest_and_uses_only_those_below(grid):
    pipeline = exact_pipeline(steps=20, grid=grid)
    times = pipeline.times()
    for strength in (0.001, 0.04, 0.33, 0.5, 0.777, 1.0):
        way = editing.times_from(pipeline, strength)
        assert abs(way[0] - strength) == (times[:-1] - strength).abs().min()
        assert torch.equal(way, times[len(times) - len(way) :])
        assert len(way) >= 2
        plan = editing.image_to_image(pipeline, drawn(pipeline, 1), strength, [0])
        assert [state.t for state in plan.states] == way.tolist()
        assert plan.steps == len(way) - 1


@pytest.mark.parametrize("name", METHODS)
def test_every_sampler_starts_from_a_picture(name):
    pipeline = exact_pipeline(steps=12, sampler=name)
    made = editing.image_to_image(pipeline, drawn(pipeline, 2), 0.4, [1, 2]).run()
    assert made.record["strength"] == 0.4
    assert made.record["sampler"] == name
    assert 2 < levels(made.pictures, to_uint8(drawn(pipeline, 2))) < 128


# to noise and back


@pytest.mark.parametrize("schedule", [LINEAR, ZERO], ids=["linear", "cosine-zero"])
def test_a_picture_comes_back_from_its_noise(schedule):
    pipeline = editing.reversible(exact_pipeline(schedule, steps=40))
    pictures = drawn(pipeline, 5)
    noise = editing.encode(pipeline, pictures)
    back = last_state(editing.decode(pipeline, noise)).x_t
    torch.testing.assert_close(back, pictures, rtol=0, atol=1e-3)
    assert levels(to_uint8(back), to_uint8(pictures)) <= 1


def test_the_noise_of_a_picture_approaches_that_of_the_ode():
    exact = exact_of(exact_pipeline())
    errors = []
    for steps in (50, 400):
        pipeline = editing.reversible(exact_pipeline(steps=steps))
        pictures = drawn(pipeline, 20)
        noise, expected = editing.encode(pipeline, pictures).flatten(1), exact.noise_of(pictures.flatten(1), 1.0)
        errors.append((noise - expected).square().mean().sqrt().item())
    assert errors[1] < 0.25 * errors[0]
    assert errors[1] < 0.05


@pytest.mark.parametrize("schedule", [LINEAR, ZERO], ids=["linear", "cosine-zero"])
def test_a_way_between_two_pictures_begins_and_ends_with_them_and_is_the_same_from_the_other_side(schedule):
    pipeline = exact_pipeline(schedule)
    ends = drawn(pipeline, 2)
    made = editing.interpolate(pipeline, ends, 5).run()
    assert levels(made.pictures[[0, -1]], to_uint8(ends)) <= 1
    assert levels(editing.interpolate(pipeline, ends.flip(0), 5).run().pictures[::-1], made.pictures) <= 1
    steps = [np.abs(a.astype(int) - b).mean() for a, b in pairwise(made.pictures)]
    assert 0.4 < max(steps) / np.mean(steps) < 2  # an even way, without a leap
    assert made.record["edit"] == "interpolate pictures"
    assert made.record["sampler"] == "ddim"


@pytest.mark.parametrize("schedule", [LINEAR, ZERO], ids=["linear", "cosine-zero"])
def test_a_way_between_two_seeds_begins_and_ends_with_the_pictures_that_they_make(schedule):
    pipeline = exact_pipeline(schedule, steps=6)
    made = editing.interpolate_seeds(pipeline, (3, 8), 4).run()
    assert levels(made.pictures[[0, -1]], editing.deterministic(pipeline).sample(seeds=[3, 8]).pictures) <= 1
    assert levels(made.pictures[::-1], editing.interpolate_seeds(pipeline, (8, 3), 4).run().pictures) <= 1
    assert len({picture.tobytes() for picture in made.pictures}) == 4
    assert made.record["between"] == [3, 8]


def test_seeds_of_a_trained_model_go_through_the_same_door(classes):
    asked = classes.ask(3, {"class": "dog"})
    made = editing.interpolate_seeds(classes, (1, 2), 3, asked).run()
    plain = editing.deterministic(classes).sample(seeds=[1, 2], label="dog")
    assert levels(made.pictures[[0, -1]], plain.pictures) <= 1
    assert made.classes == ["dog"] * 3


def test_variations_go_as_far_from_the_picture_as_their_strength_says():
    pipeline = exact_pipeline()
    picture = drawn(pipeline, 1).expand(30, -1, -1, -1)
    distances = []
    for strength in (0.01, 0.3, 1.0):
        made = editing.variations(pipeline, picture, strength, range(30)).run().pictures
        distances.append(np.abs(made.astype(int) - to_uint8(picture)).mean())
        assert len({p.tobytes() for p in made}) > 20  # the nearest may round to the same
    assert distances[0] < 3
    assert distances[0] < distances[1] / 3 < distances[2]
    fresh = editing.variations(pipeline, -picture, 1.0, range(30)).run().pictures
    assert levels(fresh, made) <= 1  # nothing of the picture is left


def test_a_variation_is_its_seeds_in_any_batch():
    pipeline = exact_pipeline()
    pictures = drawn(pipeline, 3)
    together = editing.variations(pipeline, pictures, 0.5, [4, 5, 6]).run().pictures
    for i in range(3):
        alone = editing.variations(pipeline, pictures[i : i + 1], 0.5, [4 + i]).run().pictures
        assert levels(alone, together[i : i + 1]) <= 1
    assert levels(editing.variations(pipeline, pictures[:1], 0.5, [9]).run().pictures, together[:1]) > 3


@pytest.mark.parametrize("edit", [editing.image_to_image, editing.variations])
@pytest.mark.parametrize("strength", [0.0, -0.1, 1.01, math.nan])
def test_a_strength_outside_its_range_is_refused(classes, edit, strength):
    with pytest.raises(ConfigurationError, match=r"strength must lie in \(0, 1\], got"):
        edit(classes, random_pictures(1), strength, [0])


def test_inversion_needs_a_step_that_something_of_the_picture_lives_through():
    pipeline = editing.reversible(exact_pipeline(ZERO, steps=1))
    with pytest.raises(ConfigurationError, match="2 steps"):
        editing.encode(pipeline, drawn(pipeline, 1))
    made = editing.interpolate_seeds(pipeline, (1, 2), 2).run().pictures  # from noise one step is a way
    assert levels(made, pipeline.sample(seeds=[1, 2]).pictures) <= 1


# slerp


def noise(n=1, seed=0, dtype=torch.float32):
    return torch.randn(n, 2, 3, 4, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_slerp_has_both_ends_and_is_symmetric():
    a, b, share = noise(seed=1), noise(seed=2), torch.linspace(0, 1, 7)
    way = editing.slerp(a, b, share)
    assert way.shape == (7, 2, 3, 4)
    torch.testing.assert_close(way[[0, -1]], torch.cat([a, b]))
    torch.testing.assert_close(editing.slerp(b, a, share), way.flip(0))
    assert way.dtype == torch.float32


def test_slerp_keeps_the_length_where_both_ends_have_it_and_goes_by_even_angles():
    a, b = torch.zeros(1, 5, dtype=torch.float64), torch.zeros(1, 5, dtype=torch.float64)
    a[0, 0], b[0, 3] = 2, 2
    share = torch.linspace(0, 1, 10, dtype=torch.float64)
    way = editing.slerp(a, b, share)
    torch.testing.assert_close(way.norm(dim=1), torch.full((10,), 2.0).double())
    torch.testing.assert_close((way[:, 0] / 2).acos(), share * math.pi / 2)
    long = editing.slerp(noise(seed=1), noise(seed=1).flip(1), torch.tensor([0.5]))  # equal lengths at any angle
    torch.testing.assert_close(long.norm(), noise(seed=1).norm())


@pytest.mark.parametrize("factor", [1.0, 2.0, 1 + 1e-7, -1.0, -0.5, 0.0])
def test_slerp_of_parallel_and_opposite_noise_is_the_straight_line(factor):
    a = noise(seed=1)
    way = editing.slerp(a, factor * a, torch.tensor([0.0, 0.25, 1.0]))
    assert way.isfinite().all()
    torch.testing.assert_close(way[[0, 2]], torch.cat([a, factor * a]), rtol=1e-5, atol=1e-6)
    if factor:
        torch.testing.assert_close(way[1:2], (0.75 + 0.25 * factor) * a, rtol=1e-4, atol=1e-5)


def test_slerp_takes_a_share_and_a_start_for_each():
    a, b, share = noise(4, 1), noise(4, 2), torch.tensor([0.0, 0.3, 0.6, 1.0])
    rows = [editing.slerp(a[i : i + 1], b[i : i + 1], share[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(editing.slerp(a, b, share), torch.cat(rows))
    torch.testing.assert_close(editing.slerp(a[:1], b, share)[1:2], editing.slerp(a[:1], b[1:2], share[1:2]))


# with what else there is


EDITS = {
    "inpaint": lambda p, x, asked: editing.inpaint(p, x, half_masks(x), [1, 2], asked, 2, 2),
    "image to image": lambda p, x, asked: editing.image_to_image(p, x, 0.6, [1, 2], asked),
    "interpolate pictures": lambda p, x, asked: editing.interpolate(p, x, 2, asked),
    "interpolate seeds": lambda p, x, asked: editing.interpolate_seeds(p, (1, 2), 2, asked),
    "variations": lambda p, x, asked: editing.variations(p, x, 0.6, [1, 2], asked),
}


def half_masks(x):
    masks = torch.zeros(len(x), 1, *x.shape[2:])
    masks[..., : x.shape[3] // 2] = 1
    return masks


@pytest.mark.parametrize("edit", EDITS)
def test_every_edit_hears_the_condition_and_its_guidance(classes, edit):
    pictures = random_pictures(2)

    def made(pipeline, **given):
        return EDITS[edit](pipeline, pictures, pipeline.ask(2, given) if given else None).run()

    nothing, cat, dog = made(classes), made(classes, **{"class": "cat"}), made(classes, **{"class": "dog"})
    mixed = made(classes, **{"class": ["cat", "dog"]})
    assert cat.classes == ["cat", "cat"]
    assert nothing.classes == [None, None]
    if edit != "interpolate pictures":  # whose ends are given
        assert all((a.pictures != b.pictures).any() for a, b in ((nothing, cat), (cat, dog), (nothing, dog)))
        assert levels(mixed.pictures, np.stack([cat.pictures[0], dog.pictures[1]])) <= 1
        strong = made(classes.with_settings(guidance=4.0), **{"class": "cat"})
        assert (strong.pictures != cat.pictures).any()
        assert strong.record["guidance"] == 4.0


def test_the_middle_of_a_way_hears_the_condition(classes):
    pictures = random_pictures(2)
    cat, dog = (
        editing.interpolate(classes, pictures, 3, classes.ask(3, {"class": c})).run().pictures for c in ("cat", "dog")
    )
    assert (cat[1] != dog[1]).any()


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("schedule", [ZERO, ScheduleSettings(zero_terminal_snr=True)], ids=["cosine", "linear"])
def test_every_edit_works_with_zero_terminal_snr(schedule, edit):
    pipeline = exact_pipeline(schedule, steps=12)
    pictures = drawn(pipeline, 2)
    plan = EDITS[edit](pipeline, pictures, None)
    states = list(plan.states)
    assert all(state.x_t.isfinite().all() for state in states)
    assert states[-1].x_t.abs().max() < 1.5
    assert states[-1].t == 0
    whole = editing.image_to_image(pipeline, pictures, 1.0, [1, 2])
    assert next(whole.states).t == 1  # where nothing is left at all
    assert levels(whole.run().pictures, editing.image_to_image(pipeline, -pictures, 1.0, [1, 2]).run().pictures) <= 1


@pytest.mark.parametrize("edit", EDITS)
def test_a_plan_shows_every_state_and_knows_how_many(edit):
    pipeline, seen = exact_pipeline(steps=9), []
    plan = EDITS[edit](pipeline, drawn(pipeline, 2), None)
    made = plan.run(seen.append)
    assert [state.step for state in seen] == list(range(plan.steps + 1))
    assert {state.steps for state in seen} == {plan.steps}
    assert made.record["edit"] == edit
    assert made.record["steps"] == 9
    assert made.record["alphabar"]
    assert made.pictures.shape == (2, 4, 4, 1)
    assert made.seeds == plan.seeds


# reading


def test_pictures_and_masks_are_read_as_the_model_sees_them(classes):
    notes: list[str] = []
    g = np.random.default_rng(0)
    same, large = g.integers(0, 256, (8, 8, 3), dtype=np.uint8), g.integers(0, 256, (16, 16), dtype=np.uint8)
    x = editing.read_pictures(classes, [same, large], notes)
    assert x.shape == (2, 3, 8, 8)
    assert np.array_equal(to_uint8(x)[0], same)
    assert notes == ["picture array is 16x16, resized to 8x8 as in training"]
    channels_first = editing.read_pictures(classes, [g.integers(0, 256, (3, 20, 16), dtype=np.uint8)], notes)
    assert channels_first.shape == (1, 3, 8, 8)
    assert notes.pop() == "picture array is 20x16, resized and cropped to 8x8 as in training"
    mask = np.zeros((16, 16), np.uint8)
    mask[:, 8:] = 255
    masks = editing.read_masks(classes, [mask, mask[:8, 4:12]], notes)
    assert masks.shape == (2, 1, 8, 8)
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    assert masks[0, 0, 0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert len(notes) == 2


@pytest.mark.parametrize("array", [np.zeros((8, 8, 3)), np.zeros(8, np.uint8), np.zeros((2, 8, 8, 3), np.uint8)])
def test_what_is_no_picture_is_refused(classes, array):
    for read in (editing.read_pictures, editing.read_masks):
        with pytest.raises(DataError, match=r"a picture must be uint8"):
            read(classes, [array])


def test_a_model_of_points_has_no_pictures_to_edit():
    points = Pipeline(build_denoiser(config(network={"kind": "mlp"}), (2,)), (2,))
    with pytest.raises(ConfigurationError, match="makes points of shape"):
        editing.read_pictures(points, [np.zeros((8, 8), np.uint8)])


def test_what_python_gives_wrongly_is_told_and_pillow_is_taken(classes):
    one = np.zeros((8, 8, 3), np.uint8)
    pictures = editing.read_pictures(classes, [one, Image.fromarray(one)])
    assert torch.equal(pictures[0], pictures[1])
    clear = editing.read_pictures(classes, [Image.new("RGBA", (8, 8), (0, 0, 0, 0))])
    assert torch.equal(clear, torch.ones_like(clear))  # transparent is background, white, as in a file
    masks = editing.read_masks(classes, [np.full((8, 8), 255, np.uint8)])
    for make in (
        lambda: editing.image_to_image(classes, pictures, 0.5, [1]),
        lambda: editing.variations(classes, pictures, 0.5, [1, 2, 3]),
        lambda: editing.inpaint(classes, pictures, masks.expand(2, -1, -1, -1), [1]),
    ):
        with pytest.raises(ConfigurationError, match="each picture needs a seed: got 2 pictures and"):
            make()
    with pytest.raises(ConfigurationError, match="2 pictures need as many masks, got 1"):
        editing.inpaint(classes, pictures, masks, [1, 2])
    with pytest.raises(ConfigurationError, match="between two pictures, got 1"):
        editing.interpolate(classes, pictures[:1], 3)
    for given in ([], "one.png"):
        with pytest.raises(ConfigurationError, match="give a list of at least one picture"):
            editing.read_pictures(classes, given)
    plan = editing.image_to_image(classes, pictures, 0.5, [1, 2])
    plan.run()
    with pytest.raises(ConfigurationError, match="gone already; plan them again"):
        plan.run()

"""Pictures as conditions: what each task makes is a function of the picture and its key, and is what reading gives at sampling."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from alphabar.conditions.image import ImageEncoder, enlarge, find_edges, low_size, luma, random_mask, reduce
from alphabar.conditions.kinds import KINDS, read_settings
from alphabar.data.pictures import to_signed, to_uint8
from alphabar.errors import ConfigurationError, DataError
from alphabar.randomness import generator

from .making import SHAPE, assert_same, encoder, noise, save_png, signed

TASKS = ["super-resolution", "colorize", "inpaint", "edges"]


def built(task: str, shape: tuple[int, ...] = SHAPE, **settings: Any) -> ImageEncoder:
    made = encoder("image", shape, task=task, **({"scale": 2} if task == "super-resolution" else {}), **settings)
    assert isinstance(made, ImageEncoder)
    return made


def keys(n: int, step: int = 0) -> list[tuple[Any, ...]]:
    return [(0, step, i) for i in range(n)]


def parts(values: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels, known mask, level."""
    tensor = torch.as_tensor(values)
    return tensor[:, :-2], tensor[:, -2], tensor[:, -1]


# making conditions from pictures


@pytest.mark.parametrize("task", TASKS)
def test_what_is_made_is_a_function_of_the_picture_and_its_key(task):
    made, x_0 = built(task), signed(6)
    together = made.derive(x_0, keys(6))
    assert together.dtype == np.float32
    assert together.shape == (6, made.channels + 2, 8, 8)
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002  (no global generator has a say)
    np.testing.assert_array_equal(made.derive(x_0, keys(6)), together)
    np.testing.assert_array_equal(made.derive(x_0[[4, 2]], [keys(6)[4], keys(6)[2]]), together[[4, 2]])
    other = made.derive(x_0, keys(6, step=1))
    assert np.array_equal(other, together) == (task in ("colorize", "edges"))


def test_colorize_sees_the_brightness_alone():
    x, known, level = parts(built("colorize").derive(signed(), keys(3)))
    grey = (to_uint8(signed()).astype(float) * [0.299, 0.587, 0.114]).sum(-1)
    np.testing.assert_allclose(((x[:, 0] + 1) * 127.5).numpy(), grey.round(), atol=1e-3)
    assert (known == 1).all()
    assert (level == 0).all()


def test_edges_are_where_the_brightness_changes():
    x_0 = torch.full((1, 3, 8, 8), -1.0)
    x_0[..., 4:] = 1
    x, known, _ = parts(built("edges").derive(x_0, keys(1)))
    assert (x[0, 0, :, 3:5] == 1).all()
    assert (x[0, 0, :, :3] == -1).all()
    assert (x[0, 0, :, 5:] == -1).all()
    assert (known == 1).all()
    torch.testing.assert_close(find_edges(x_0.mT), x.mT)
    torch.testing.assert_close(find_edges(-x_0), x)


def test_inpainting_hides_what_the_mask_says_and_nothing_else():
    x_0 = signed(20)
    x, known, _ = parts(built("inpaint").derive(x_0, keys(20)))
    assert set(known.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(x, x_0 * known[:, None])
    shares = known.flatten(1).mean(1)
    assert (shares > 0).all()
    assert (shares < 1).all()
    assert len({tuple(mask.flatten().tolist()) for mask in known}) > 12


@pytest.mark.parametrize("size", [(8, 8), (32, 20), (9, 17), (2, 2)])
def test_masks_fit_any_size_and_are_of_several_kinds(size):
    masks = [random_mask(size, generator(0, i)) for i in range(60)]
    assert all(mask.shape == size and mask.dtype == np.float32 for mask in masks)
    assert set(np.unique(np.stack(masks))) == {0.0, 1.0}
    if min(size) >= 8:
        halves = [
            mask for mask in masks if mask.mean() == pytest.approx(0.5, abs=0.07) and len(np.unique(mask, axis=0)) <= 2
        ]
        assert len(halves) > 5
        assert len({mask.tobytes() for mask in masks}) > 35


def plain_mask(size: tuple[int, int], g: np.random.Generator) -> np.ndarray:
    """What random_mask makes, stroke by stroke."""
    height, width = size
    known = np.ones(size, np.float32)
    kind = g.integers(3)
    if kind == 0:
        high, wide = g.integers(height // 4, height * 3 // 4 + 1), g.integers(width // 4, width * 3 // 4 + 1)
        top, left = g.integers(0, height - high + 1), g.integers(0, width - wide + 1)
        known[top : top + high, left : left + wide] = 0
    elif kind == 1:
        flipped = known[::-1] if g.random() < 0.5 else known[:, ::-1] if g.random() < 0.5 else known
        half = flipped[: height // 2] if g.random() < 0.5 else flipped[:, : width // 2]
        half[...] = 0
    else:
        reach = max(1, min(size) // 10)
        for _ in range(g.integers(1, 5)):
            (y0, y1), (x0, x1) = g.integers(0, height, 2), g.integers(0, width, 2)
            for step in np.linspace(0, 1, 2 * max(size)):
                y, x = round(y0 + (y1 - y0) * step), round(x0 + (x1 - x0) * step)
                known[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1] = 0
    return known


@pytest.mark.parametrize("size", [(8, 8), (32, 20), (9, 61), (2, 2), (1, 5)])
def test_a_mask_is_what_its_strokes_say(size):
    for i in range(80):
        np.testing.assert_array_equal(random_mask(size, generator(0, i)), plain_mask(size, generator(0, i)))


def test_masks_of_large_pictures_are_quick():
    def seconds(make: Any) -> float:
        began = time.perf_counter()
        for i in range(24):
            make((256, 256), generator(0, i))
        return time.perf_counter() - began

    ratios = [seconds(plain_mask) / seconds(random_mask) for _ in range(5)]
    assert max(ratios) > 2  # about 6; the machine may do other things


def test_super_resolution_sees_the_averaged_picture_brought_back_to_size():
    made = built("super-resolution", augmentation=0)
    x, known, level = parts(made.derive(signed(), keys(3)))
    small = F.avg_pool2d(signed(), 2)
    assert (small - reduce(signed(), 2)).abs().max() <= 1 / 255 + 1e-6  # rounded to 8 bits
    torch.testing.assert_close(x, enlarge(reduce(signed(), 2), (8, 8)))
    assert (known == 1).all()
    assert (level == 0).all()
    assert made.level is None


def test_noise_augmentation_is_drawn_for_each_picture_and_told_to_the_network():
    """sqrt(1 - s^2) y + s eps, s uniform in [0, augmentation): the variance of what was added is s^2."""
    made = built("super-resolution", (1, 32, 32), augmentation=0.4)
    x_0 = signed(40, 1, size=32)
    x, _, level = parts(made.derive(x_0, keys(40)))
    s = level[:, 0, 0]
    assert (level == s[:, None, None]).all()
    assert 0 <= s.min() < 0.1 < 0.3 < s.max() < 0.4
    clean = enlarge(reduce(x_0, 2), (32, 32))
    added = x - (1 - s**2).sqrt().reshape(-1, 1, 1, 1) * clean
    torch.testing.assert_close(added.flatten(1).std(1), s, rtol=0.1, atol=1e-6)
    vectors = made(torch.cat([x, torch.ones(40, 1, 32, 32), level[:, None]], 1), 40).vector
    assert (vectors[s.argmin()] - vectors[s.argmax()]).abs().max() > 1e-2


def test_pictures_are_made_without_augmentation():
    """The level is 0 and nothing is added: reading is not training."""
    made, notes = built("super-resolution", augmentation=0.4), []
    low = to_uint8(reduce(signed(1), 2))[0]
    x, known, level = parts(made.read([low], notes))
    torch.testing.assert_close(x, enlarge(reduce(signed(1), 2), (8, 8)))
    assert (known == 1).all()
    assert (level == 0).all()
    assert notes == []


# reading at sampling is making in training


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 8, 12)])
@pytest.mark.parametrize("task", TASKS)
def test_reading_a_picture_gives_what_training_made_of_it(tmp_path, task, shape):
    if task == "colorize" and shape[0] == 1:
        return
    made, notes = built(task, shape, **({"augmentation": 0} if task == "super-resolution" else {})), []
    pictures = noise(3, *shape[1:], shape[0])
    x_0 = to_signed(pictures)
    trained = made.derive(x_0, keys(3))
    match task:
        case "super-resolution":
            given: list[Any] = list(to_uint8(reduce(x_0, 2)))
        case "inpaint":
            masks = ((1 - trained[:, -2]) * 255).astype(np.uint8)  # white is to be filled
            given = list(zip(pictures, masks, strict=True))
        case _:
            given = list(pictures)
    np.testing.assert_allclose(made.read(given, notes), trained, atol=1e-6)
    paths = [
        tuple(save_png(tmp_path / f"{i}-{j}.png", part) for j, part in enumerate(one))
        if isinstance(one, tuple)
        else save_png(tmp_path / f"{i}.png", one)
        for i, one in enumerate(given)
    ]
    np.testing.assert_allclose(made.read(paths, notes), trained, atol=1e-6)
    assert notes == []


def test_a_grey_picture_can_be_coloured_as_it_is(tmp_path):
    grey = noise(1, channels=1)[0]
    x, _, _ = parts(built("colorize").read([save_png(tmp_path / "grey.png", grey)], []))
    torch.testing.assert_close(x, to_signed(grey[None]))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_pair_is_read_as_it_is_in_the_channels_of_the_pairs(tmp_path, channels):
    made = encoder("image", channels=channels)
    pictures = noise(2, channels=channels)
    given = [pictures[0], save_png(tmp_path / "b.png", pictures[1])]
    values = made.read(given, [])
    assert_same(made(values, 2), made(pictures, 2))  # uint8 from data, float32 when asked
    cond = made(pictures, 2).concat
    assert cond.shape == (2, channels + 1, 8, 8)
    torch.testing.assert_close(cond[:, :-1], to_signed(pictures))
    assert (cond[:, -1] == 1).all()


def test_null_is_told_from_a_grey_picture():
    """The content 0 is mid-grey; the known mask tells it from nothing."""
    made = encoder("image", channels=3)
    grey = made(np.full((1, 8, 8, 3), 128, np.uint8), 1).concat
    assert (grey[:, -1] == 1).all()
    assert (made(None, 1).concat == 0).all()


def test_a_picture_of_another_size_is_resized_and_says_so(tmp_path):
    notes: list[str] = []
    big = noise(1, 16, 24)[0]
    encoder("image", channels=3).read([save_png(tmp_path / "big.png", big), noise(1)[0]], notes)
    assert notes == ["picture big.png is 16x24, resized and cropped to 8x8 as in training"]
    notes.clear()
    built("super-resolution").read([noise(1, 8, 8)[0], noise(1, 4, 4)[0]], notes)
    assert notes == ["picture array is 8x8, resized to 4x4 as in training"]
    notes.clear()
    built("inpaint").read([(noise(1)[0], save_png(tmp_path / "mask.png", noise(1, 16, 16, 1)[0]))], notes)
    assert notes == ["mask mask.png is 16x16, resized to 8x8 as in training"]


def test_a_mask_of_another_size_stays_hard(tmp_path):
    mask = np.zeros((32, 32), np.uint8)
    mask[10:25, 3:20] = 255
    _, known, _ = parts(built("inpaint").read([(noise(1)[0], save_png(tmp_path / "mask.png", mask))], []))
    assert set(known.unique().tolist()) == {0.0, 1.0}
    assert known[0, 4, 2] == 0
    assert known[0, 0, 0] == 1


def test_a_mask_goes_with_inpainting_and_inpainting_with_a_mask():
    with pytest.raises(
        ConfigurationError, match=r"inpainting needs a picture and a mask \(white is filled\): --image FILE --mask FILE"
    ):
        built("inpaint").read([noise(1)[0]], [])
    with pytest.raises(ConfigurationError, match="a mask goes with task=inpaint only"):
        built("colorize").read([(noise(1)[0], noise(1, channels=1)[0])], [])


def test_low_sizes_round_and_never_vanish():
    assert low_size((28, 28), 4) == (7, 7)
    assert low_size((32, 48), 4) == (8, 12)
    assert low_size((30, 31), 4) == (8, 8)
    assert low_size((3, 3), 16) == (1, 1)


# what does not fit


@pytest.mark.parametrize(
    ("settings", "shape", "message"),
    [
        (
            {"task": "colorize"},
            (1, 8, 8),
            r"task=colorize needs pictures in colour, these have 1 channel$",
        ),
        ({"task": "colorize"}, (4, 8, 8), "these have 4 channels"),
        ({"task": "super-resolution", "scale": 8}, (3, 8, 8), "pictures of 8x8 are too small for scale 8"),
        ({"task": "edges"}, (2,), r"a picture as condition goes with pictures, the data has shape \(2,\)"),
        ({}, (2,), r"goes with pictures, the data has shape \(2,\)"),
    ],
)
def test_a_task_that_does_not_fit_the_pictures_is_refused(settings, shape, message):
    with pytest.raises(ConfigurationError, match=message):
        KINDS["image"].encoder.doors(read_settings("image", settings), shape)


@pytest.mark.parametrize(
    "settings",
    [
        {"task": "colourise"},
        {"scale": 1},
        {"augmentation": 1.0},
        {"augmentation": -0.1},
        {"channels": 2},
        {"dropout": -1},
    ],
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigurationError, match=r"conditions\.image: "):
        read_settings("image", settings)


def test_values_of_other_channels_or_another_size_are_refused():
    made = encoder("image", channels=1)
    for values in (noise(2), noise(2, 4, 4, 1), noise(3, channels=1), np.zeros((2, 2, 8, 8), np.float32)):
        with pytest.raises(ConfigurationError, match=r"pictures as condition must be 2 of 1 channels and 8x8, got \("):
            made(values, 2)
    with pytest.raises(DataError, match=r"a picture must be uint8 \(H, W\) or \(H, W, C\), got float32"):
        made.read([np.zeros((8, 8), np.float32)], [])


def test_a_pair_has_nothing_to_make_it_from():
    with pytest.raises(ConfigurationError, match="task=pair has nothing to make a condition from"):
        encoder("image", channels=3).derive(signed(), keys(3))
    for task in ("pair", *TASKS):
        assert KINDS["image"].reader.derives(read_settings("image", {"task": task})) == (task != "pair")


def test_what_is_shown_is_what_the_network_sees():
    made = built("inpaint")
    values = made.derive(signed(), keys(3))
    drawn, _ = made.show(values)
    known = values[:, -2] == 1
    np.testing.assert_array_equal(drawn[known], to_uint8(signed())[known])
    assert np.isin(drawn[~known], [127, 128]).all()
    grey, _ = encoder("image", channels=1).show(noise(2, channels=1))
    np.testing.assert_array_equal(grey[..., 0], noise(2, channels=1)[..., 0])
    assert grey.shape == (2, 8, 8, 3)


def test_brightness_of_a_picture_with_alpha_is_that_of_its_colours():
    x = signed(2, 4)
    torch.testing.assert_close(luma(x), luma(x[:, :3]))
    torch.testing.assert_close(luma(signed(2, 2)), signed(2, 2)[:, :1])


def test_inpainting_keeps_what_is_known():
    built = encoder("image", task="inpaint")
    picture, mask = noise(1, 8, 8)[0], np.zeros((8, 8), np.uint8)
    mask[:, 4:] = 255
    values = built.read([(picture, mask), None], [])
    made = torch.zeros(2, built.shape[0], 8, 8)
    finished = built.finish(made, values)
    torch.testing.assert_close(finished[0, :, :, :4], torch.as_tensor(values[0, : built.channels, :, :4]))
    assert (finished[0, :, :, 4:] == 0).all()
    assert (finished[1] == 0).all()

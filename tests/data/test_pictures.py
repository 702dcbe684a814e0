"""Levels and [-1, 1] convert both ways; batches hold the pictures asked for, the marked ones mirrored; fingerprints tell sets apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from alphabar.data.pictures import Numbered, PictureSet, PointSet, Rows, to_signed, to_uint8

from .making import noise

LEVELS = np.arange(256, dtype=np.uint8).reshape(4, 4, 8, 2)
PICTURES = np.stack([noise(4, 6, 3, seed) for seed in range(5)])
SET = PictureSet(PICTURES, np.array([2, 0, 1, 1, 0]), ["a", "b", "c"], [f"{i}.png" for i in range(5)])


def test_all_levels_survive_the_way_to_signed_and_back():
    x = to_signed(LEVELS)
    assert x.shape == (4, 2, 4, 8)
    assert x.dtype == torch.float32
    np.testing.assert_array_equal(to_uint8(x), LEVELS)


def test_levels_span_minus_one_to_one_evenly():
    x = to_signed(np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)).flatten()
    assert x[0] == -1
    assert x[255] == 1
    torch.testing.assert_close(x.diff(), torch.full((255,), 2 / 255), rtol=0, atol=1e-6)


def test_levels_are_rounded_and_not_truncated():
    """A value 0.4 of a level off still belongs to it, 0.6 off to the next; truncation would darken by half a level."""
    levels = torch.arange(1, 255).reshape(1, 1, 1, -1)
    for off, moved in ((0.4, 0), (-0.4, 0), (0.6, 1), (-0.6, -1)):
        np.testing.assert_array_equal(to_uint8((levels + off) / 127.5 - 1)[0, 0, :, 0], levels.flatten() + moved)


def test_values_outside_are_clipped_and_do_not_wrap():
    x = torch.tensor([-9.0, -1.01, -1.0, 1.0, 1.01, 9.0]).reshape(1, 1, 1, 6)
    assert to_uint8(x).ravel().tolist() == [0, 0, 0, 255, 255, 255]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_written_too(dtype):
    assert to_uint8(torch.ones(1, 3, 2, 2, dtype=dtype, requires_grad=True)).tolist() == [[[[255] * 3] * 2] * 2]


def test_a_batch_holds_the_pictures_asked_for_with_their_labels():
    indices = np.array([3, 0, 3])
    batch = SET.batch(indices)
    np.testing.assert_array_equal(to_uint8(batch.x_0), PICTURES[indices])
    assert batch.cond["class"].tolist() == [1, 2, 1]
    assert batch.cond["class"].dtype == torch.int64
    assert replace(SET, labels=None, classes=[]).batch(indices).cond == {}


def test_a_batch_mirrors_exactly_the_marked_pictures_left_to_right():
    batch = SET.batch(np.array([0, 1, 2]), np.array([True, False, True]))
    np.testing.assert_array_equal(
        to_uint8(batch.x_0), np.stack([PICTURES[0][:, ::-1], PICTURES[1], PICTURES[2][:, ::-1]])
    )
    assert batch.cond["class"].tolist() == [2, 0, 1]


TOKENS = np.arange(5 * 3 * 4, dtype=np.float32).reshape(5, 3, 4)


@pytest.mark.parametrize(
    ("values", "pictorial", "flipped"),
    [
        (TOKENS, None, False),
        (TOKENS, frozenset({"other"}), False),
        (TOKENS[..., None].repeat(6, 2), None, False),  # no picture, though it is as wide as one
        (PICTURES, None, True),
        (PICTURES, frozenset[str](), False),
        (PICTURES[:, :, :3], None, False),
        (PICTURES[:, :, :3], frozenset({"value"}), True),
        (PICTURES.astype(np.float32), frozenset({"value"}), True),
    ],
)
def test_only_pictures_and_maps_are_mirrored_with_a_picture(values, pictorial, flipped):
    data = replace(SET, values={"value": values}, pictorial=pictorial)
    batch = data.batch(np.array([0, 1]), np.array([True, False]))
    expected = np.stack([values[0][:, ::-1] if flipped else values[0], values[1]])
    np.testing.assert_array_equal(batch.cond["value"], expected)


def test_a_batch_leaves_the_set_as_it_was():
    before = PICTURES.copy()
    SET.batch(np.array([0, 1]), np.array([True, True])).x_0.zero_()
    np.testing.assert_array_equal(PICTURES, before)


def test_shapes_are_those_of_networks():
    assert SET.shape == (3, 4, 6)
    assert len(SET) == 5
    assert SET.batch(np.array([1])).x_0.shape == (1, 3, 4, 6)


def test_a_fingerprint_is_that_of_the_content():
    assert replace(SET, pictures=PICTURES.copy(), names=["other"] * 5).fingerprint() == SET.fingerprint()


def changed_pixel(value: int = 1) -> np.ndarray:
    pictures = PICTURES.copy()
    pictures[4, 3, 5, 2] ^= value
    return pictures


@pytest.mark.parametrize(
    "other",
    [
        replace(SET, pictures=changed_pixel()),
        replace(SET, labels=np.array([2, 0, 1, 1, 1])),
        replace(SET, labels=None),
        replace(SET, classes=["a", "b", "C"]),
        replace(SET, classes=["b", "a", "c"]),
        replace(SET, classes=["a", "b", "c", "d"]),
        replace(SET, pictures=PICTURES[::-1]),
        replace(SET, pictures=PICTURES.reshape(5, 6, 4, 3)),
        replace(SET, pictures=PICTURES[:4], labels=SET.labels[:4]),
    ],
)
def test_a_fingerprint_changes_with_a_pixel_a_label_a_class_the_order_or_the_shape(other):
    assert other.fingerprint() != SET.fingerprint()


def test_a_fingerprint_minds_every_picture_of_a_large_set():
    """It is taken in pieces."""
    pictures = np.zeros((9000, 1, 1, 1), np.uint8)
    prints = set()
    for k in (0, 4095, 4096, 8191, 8192, 8999):
        pictures[:] = 0
        pictures[k] = 1
        prints.add(PictureSet(pictures).fingerprint())
    assert len(prints) == 6


def test_rows_are_like_an_array_of_them():
    rows = Rows(PICTURES, np.array([4, 0, 2]))
    assert len(rows) == 3
    assert rows.shape == (3, 4, 6, 3)
    np.testing.assert_array_equal(rows[np.array([2, 0])], PICTURES[[2, 4]])
    np.testing.assert_array_equal(rows[1:], PICTURES[[0, 2]])
    some, copied = PictureSet(rows), PictureSet(PICTURES[[4, 0, 2]])
    assert some.fingerprint() == copied.fingerprint()
    assert some.shape == copied.shape
    torch.testing.assert_close(some.batch(np.array([1, 2])).x_0, copied.batch(np.array([1, 2])).x_0)


def test_points_serve_for_pictures():
    points = PointSet(torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]))
    assert len(points) == 3
    assert points.shape == (2,)
    assert points.batch(np.array([2, 0])).x_0.tolist() == [[4.0, 5.0], [0.0, 1.0]]
    assert points.fingerprint() != PointSet(points.points + 1e-6).fingerprint()


def test_names_of_an_array_read_like_a_list():
    assert Numbered(3) == ["#0", "#1", "#2"]
    part = Numbered(np.array([4, 7, 9], np.int32))
    assert part == ["#4", "#7", "#9"] != ["#4", "#7", "#8"]
    assert (part[-1], part[np.int64(1)], part[1:]) == ("#9", "#7", ["#7", "#9"])
    with pytest.raises(IndexError):
        part[3]

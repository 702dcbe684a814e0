"""Copies are found however many pictures there are, different pictures are told apart, and chains hang together."""

from __future__ import annotations

import collections
import io
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from alphabar.data import near_duplicates as module
from alphabar.data.near_duplicates import components, near_duplicates, thumbnail
from alphabar.errors import StorageError

from .making import noise, photo


def photos(n: int, side: int = 32) -> np.ndarray:
    return np.stack([photo(side, side, seed) for seed in range(n)])


def resized(picture: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS))


def recompressed(picture: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(
        buffer, "JPEG", quality=quality, subsampling=0
    )  # colours here are harsher than in photos
    return np.asarray(Image.open(buffer))


@pytest.mark.parametrize("n", [0, 1])
def test_nothing_and_one_picture_have_no_pairs(n):
    pairs = near_duplicates(photos(3)[:n])
    assert pairs.shape == (0, 2)
    assert components(n, pairs).tolist() == list(range(n))


def test_exact_copies_are_always_found():
    """Among many pictures that are almost as near, and more copies than a picture may have neighbours."""
    cloud = np.clip(
        photo(32, 32).astype(int) + np.random.default_rng(0).normal(0, 30, (2000, 32, 32, 3)), 0, 255
    ).astype(np.uint8)
    copies = np.concatenate([cloud, cloud[:40], np.repeat(cloud[7:8], 30, axis=0)])
    groups = components(len(copies), near_duplicates(copies))
    assert (groups[2000:2040] == groups[:40]).all()
    assert (groups[2040:] == groups[7]).all()


def test_pieces_and_a_file_give_the_same_pairs(monkeypatch):
    """A set that is compared piece by piece, its thumbnails in a file, has the pairs of one that is compared at once in memory."""
    series = np.stack([np.clip(photo(16, 16, k // 6).astype(int) + k % 6, 0, 255).astype(np.uint8) for k in range(300)])
    at_once = near_duplicates(series)
    assert len(at_once) > 300
    monkeypatch.setattr(module, "WINDOW", 7)
    monkeypatch.setattr(module, "BLOCK", 5)
    monkeypatch.setattr(module, "IN_MEMORY", 1000)
    np.testing.assert_array_equal(near_duplicates(series), at_once)


def test_a_disk_too_small_for_the_thumbnails_is_noticed_before_it_is_full(monkeypatch):
    usage = collections.namedtuple("usage", "free")
    monkeypatch.setattr(module, "IN_MEMORY", 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(3 * 3 * 16 * 16 - 1))
    with pytest.raises(StorageError, match=r"search for near-duplicates needs 2\.3e-06 GB .* make room, or .* TMPDIR"):
        near_duplicates(photos(3))


def test_recompressed_and_rescaled_copies_are_found_in_a_large_set():
    """The same picture in another size and quality, in a crowd where many others are as near in any single measure."""
    copies = [resized(recompressed(photo(96, 96, k), quality=60), 32) for k in range(60)]
    copies += [resized(resized(photo(96, 96, k), 77), 32) for k in range(60, 120)]
    originals = [resized(photo(96, 96, k), 32) for k in range(120)] + list(photos(3000)[120:])
    pairs = near_duplicates(np.stack(originals + copies))
    assert pairs.tolist() == [[k, 3000 + k] for k in range(120)]


def test_different_pictures_are_told_apart():
    assert len(near_duplicates(photos(500))) == 0
    assert len(near_duplicates(np.stack([noise(16, 16, 1, seed) for seed in range(300)]))) == 0


def test_colours_tell_pictures_apart():
    grey = np.full((16, 16, 3), 100, np.uint8)
    other = grey.copy()
    other[..., 0], other[..., 1] = 110, 90
    assert len(near_duplicates(np.stack([grey, other]))) == 0


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 7, 2), (5, 3, 3), (16, 16, 1), (40, 17, 4), (8, 8, 1)])
@pytest.mark.parametrize("block", [7, 256])
def test_pairs_are_those_of_the_definition(monkeypatch, shape, block):
    """All pairs of thumbnails within the distance and no others, in a set small enough to compare each with each."""
    monkeypatch.setattr(module, "BLOCK", block)
    random = np.random.default_rng(0)
    centres = random.integers(20, 235, (40, *shape))
    pictures = np.clip(centres.repeat(4, axis=0) + random.normal(0, 1.7, (160, *shape)), 0, 255).astype(np.uint8)
    thumbnails = np.stack([thumbnail(picture).ravel() for picture in pictures]).astype(float)
    rms = np.sqrt(((thumbnails[:, None] - thumbnails) ** 2).mean(2))
    defined = {(i, j) for i, j in np.argwhere(rms <= 2.5).tolist() if i < j}
    pairs = near_duplicates(pictures)
    found = {tuple(pair) for pair in pairs.tolist()}
    assert len(pairs) == len(found)
    assert found <= defined
    if np.unique(thumbnails, axis=0).shape == thumbnails.shape:
        assert found == defined
    assert components(160, pairs).tolist() == components(160, np.array(sorted(defined)).reshape(-1, 2)).tolist()


def test_the_distance_can_be_chosen():
    pictures = np.stack([np.full((16, 16, 1), level, np.uint8) for level in (100, 102, 106, 112)])
    assert near_duplicates(pictures, max_rms=0).tolist() == []
    assert near_duplicates(pictures, max_rms=2).tolist() == [[0, 1]]
    assert near_duplicates(pictures, max_rms=4).tolist() == [[0, 1], [1, 2]]
    assert near_duplicates(pictures, max_rms=6).tolist() == [[0, 1], [0, 2], [1, 2], [2, 3]]


def test_the_frames_of_a_film_hang_together_without_all_pairs():
    steps = np.cumsum(np.random.default_rng(0).normal(0, 0.5, (600, 1, 1, 3)), axis=0)
    film = np.clip(photo(16, 16).astype(float) * 0.5 + 60 + steps, 0, 255).astype(np.uint8)
    pairs = near_duplicates(film)
    assert (components(600, pairs) == 0).all()
    assert len(pairs) <= 600 * (module.MOST + 1)


def test_pairs_come_in_order_and_always_the_same():
    pictures = np.concatenate([photos(50), photos(50)])[np.random.default_rng(0).permutation(100)]
    pairs = near_duplicates(pictures)
    assert len(pairs) == 50
    assert (pairs[:, 0] < pairs[:, 1]).all()
    assert pairs.tolist() == sorted(pairs.tolist()) == near_duplicates(pictures).tolist()


def test_thumbnails_average_each_channel():
    picture = np.zeros((64, 32, 2), np.uint8)
    picture[::2, :, 0], picture[:, :, 1] = 255, 7
    assert thumbnail(picture).shape == (2, 16, 16)
    assert set(np.unique(thumbnail(picture)[0])) <= {127, 128}
    assert (thumbnail(picture)[1] == 7).all()
    assert thumbnail(picture[:5, :9]).shape == (2, 5, 9)


def test_chains_are_one_component():
    pairs = np.array([[0, 1], [2, 3], [1, 2], [5, 6], [8, 6], [9, 9]])
    assert components(10, pairs).tolist() == [0, 0, 0, 0, 4, 5, 5, 7, 5, 9]


@given(
    st.integers(1, 40).flatmap(
        lambda n: st.tuples(st.just(n), st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=60))
    )
)
@settings(max_examples=60, deadline=None)
def test_components_are_those_of_a_search(case):
    n, pairs = case
    label = list(range(n))
    for _ in range(n):
        for i, j in pairs:
            label[i] = label[j] = min(label[i], label[j])
    assert components(n, np.array(pairs, np.int64).reshape(-1, 2)).tolist() == label

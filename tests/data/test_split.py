"""Held out: as many as asked for, nothing related on both sides, the same each time, and never everything."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from alphabar.errors import ConfigurationError, DataError
from alphabar.settings.data import DataSettings

from .making import load, noise, npz, photo, save, save_many, with_metadata


def array_set(folder: Path, n: int, **more: np.ndarray) -> Path:
    return npz(folder, images=np.stack([noise(8, 8, 1, seed) for seed in range(n)]), **more)


@pytest.mark.parametrize(
    ("n", "fraction"), [(100, 0.05), (100, 0.37), (40, 0.5), (20, 0.99), (7, 0.2), (2, 0.5), (1, 0.9), (3, 0.0)]
)
def test_a_fraction_is_held_out_and_recorded(tmp_path, n, fraction):
    path = array_set(tmp_path, n)
    loaded = load(path, held_out=fraction)
    wanted = min(round(n * fraction), n - 1)
    assert (len(loaded.train), len(loaded.held_out)) == (n - wanted, wanted)
    assert loaded.report.held_out == sorted(int(name[1:]) for name in loaded.held_out.names)
    assert sorted([*loaded.train.names, *loaded.held_out.names]) == sorted(f"#{k}" for k in range(n))
    for part in (loaded.train, loaded.held_out):
        for k, name in enumerate(part.names):
            np.testing.assert_array_equal(part.pictures[k], noise(8, 8, 1, int(name[1:])))
    assert load(path, held_out=fraction).report == loaded.report


@pytest.mark.parametrize("fraction", [0.05, 0.5, 0.95, 0.999])
@pytest.mark.parametrize("n", [1, 2, 3, 10])
def test_something_is_left_to_train_on(tmp_path, n, fraction):
    loaded = load(array_set(tmp_path, n), held_out=fraction)
    assert len(loaded.train) >= 1
    assert len(loaded.train) + len(loaded.held_out) == n


def test_nothing_is_held_out_if_nothing_should_be(tmp_path):
    loaded = load(array_set(tmp_path, 30, labels=np.arange(30) % 3), held_out=0)
    assert len(loaded.held_out) == 0
    assert loaded.held_out.shape == loaded.train.shape
    assert loaded.held_out.classes == loaded.train.classes
    assert loaded.report.held_out == []


def test_the_split_is_not_by_order(tmp_path):
    """Sets are often sorted by class."""
    held_out = load(array_set(tmp_path, 200), held_out=0.2).report.held_out
    assert 60 < np.mean(held_out) < 140
    assert held_out[0] < 40
    assert held_out[-1] > 160


@pytest.mark.parametrize("fraction", [1.0, -0.1])
def test_a_fraction_is_less_than_all(fraction):
    with pytest.raises(ValueError, match="held_out"):
        DataSettings(held_out=fraction)


def people(folder: Path, n: int = 60, size: int = 3) -> Path:
    return with_metadata(folder, "file_name,person\n" + "".join(f"{k}.png,p{k % (n // size)}\n" for k in range(n)), n)


def person(name: str, n: int = 60, size: int = 3) -> int:
    return int(Path(name).stem) % (n // size)


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.33, 0.5, 0.9])
def test_a_group_never_falls_on_both_sides(tmp_path, fraction):
    loaded = load(people(tmp_path), group="person", held_out=fraction)
    train, held_out = ({person(name) for name in part.names} for part in (loaded.train, loaded.held_out))
    assert not train & held_out
    assert len(train | held_out) == 20
    assert 0 <= 60 * fraction - len(loaded.held_out) < 3.5  # as near as groups of three come


def test_a_fraction_too_small_for_any_group_is_refused(tmp_path):
    people(tmp_path, 60, 6)
    with pytest.raises(
        DataError,
        match=r"data\.held_out = 0\.05 is 3 of 60 pictures, but the smallest group of column 'person' .* has 6; raise",
    ):
        load(tmp_path, group="person")
    assert len(load(tmp_path, group="person", held_out=0.1).held_out) == 6
    assert len(load(tmp_path, group="person", held_out=0).held_out) == 0


def test_groups_that_share_a_picture_are_one(tmp_path):
    people(tmp_path)
    shutil.copy(tmp_path / "0.png", tmp_path / "1.png")  # of persons 0 and 1
    loaded = load(tmp_path, group="person", held_out=0.5)
    train = {person(name) for name in loaded.train.names}
    assert (0 in train) == (1 in train)


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.5, 0.8])
def test_near_duplicates_stay_on_one_side(tmp_path, fraction):
    for k in range(30):
        picture = photo(32, 32, k)
        save(tmp_path / f"{k}.png", picture)
        save(tmp_path / f"{k} copy.png", picture)
        brighter = np.clip(picture.astype(int) + 2, 0, 255).astype(np.uint8)
        save(tmp_path / f"{k} brighter.png", brighter)
    loaded = load(tmp_path, held_out=fraction)
    train, held_out = (
        {name.split(".")[0].split()[0] for name in part.names} for part in (loaded.train, loaded.held_out)
    )
    assert not train & held_out
    assert 0 <= 90 * fraction - len(loaded.held_out) < 3.5
    assert len(loaded.report.near_duplicates) >= 60
    assert ("0 copy.png", "0.png") in loaded.report.near_duplicates


def test_a_large_cluster_does_not_keep_others_from_being_held_out(tmp_path):
    """Whatever comes first in the random order, the wanted number is filled with what fits."""
    for large in range(10):
        pictures = [noise(8, 8, 1, seed) for seed in range(100)]
        pictures += [noise(8, 8, 1, large)] * 50
        path = npz(tmp_path, images=np.stack(pictures))
        loaded = load(path, held_out=0.2)
        assert len(loaded.held_out) == 30
        assert f"#{large}" in loaded.train.names


def test_a_set_of_copies_only_is_trained_on_whole(tmp_path):
    loaded = load(npz(tmp_path, images=np.stack([noise(8, 8, 1)] * 40)))
    assert (len(loaded.train), len(loaded.held_out)) == (40, 0)


def test_a_folder_can_be_held_out(tmp_path):
    save_many(
        tmp_path, ["train/a/0.png", "train/b/1.png", "test/a/2.png", "more/test/3.png", "testing/4.png", "test.png"]
    )
    loaded = load(tmp_path, held_out_folder="test", held_out=0.9)
    assert loaded.held_out.names == ["more/test/3.png", "test/a/2.png"]
    assert loaded.report.held_out == [0, 2]
    assert loaded.train.names == ["test.png", "testing/4.png", "train/a/0.png", "train/b/1.png"]


def test_a_picture_called_like_the_held_out_folder_is_not_held_out(tmp_path):
    save_many(tmp_path, ["cut.png/0.png", "raw/cut.png"])
    assert load(tmp_path, held_out_folder="cut.png").held_out.names == ["cut.png/0.png"]


@pytest.mark.parametrize(("name", "count"), [("nothing", 0), ("all", 3)])
def test_a_held_out_folder_with_nothing_or_everything_in_it_is_refused(tmp_path, name, count):
    save_many(tmp_path, ["all/0.png", "all/1.png", "all/x/2.png"])
    with pytest.raises(
        DataError, match=rf"held_out_folder = '{name}' holds {count} of 3 pictures; it must hold some and not all"
    ):
        load(tmp_path, held_out_folder=name)


def test_two_ways_to_split_are_one_too_many():
    with pytest.raises(ConfigurationError, match="set one of them"):
        DataSettings(group="person", held_out_folder="test")

"""The sets known by name, and what is said when their files are not there or damaged."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from alphabar.data import builtin_sets
from alphabar.data.builtin_sets import load_digits, load_fashion_mnist, read_idx
from alphabar.errors import DataError

from .making import load, noise


def test_digits_are_all_there():
    pictures, labels, classes = load_digits()
    assert pictures.shape == (1797, 8, 8, 1)
    assert pictures.dtype == np.uint8
    assert labels.dtype == np.int64
    assert classes == list("0123456789")
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # the UCI test set
    assert np.unique(pictures).tolist() == np.round(np.arange(17) * 255 / 16).astype(int).tolist()


def test_digits_lie_upright_with_their_labels():
    """The first three of the set are 0, 1, 2: a ring, a bar, and so on; a nought is hollow and a one is not."""
    pictures, labels, _ = load_digits()
    assert labels[:10].tolist() == list(range(10))
    mean = {digit: pictures[labels == digit].mean(0)[..., 0] for digit in (0, 1, 7)}
    assert mean[0][3:5, 3:5].max() < 80 < 200 < mean[1][3:5, 3:5].max()
    assert mean[7][0:2].sum() > 1.5 * mean[7][6:8].sum()  # its bar is at the top


def test_digits_load_by_name():
    loaded = load("digits")
    assert loaded.report.count == 1797
    assert loaded.report.shape == (1, 8, 8)
    assert loaded.report.classes == {
        str(k): n for k, n in enumerate([178, 182, 177, 183, 181, 182, 181, 179, 174, 180])
    }
    assert len(loaded.train) + len(loaded.held_out) == 1797
    assert len(loaded.held_out) == 90
    assert loaded.settings.class_from == "label"
    assert loaded.settings.size == [8, 8]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(None, id="absent"),
        pytest.param(b"", id="empty"),
        pytest.param(b"no gzip", id="not packed"),
        pytest.param(gzip.compress(b"1,2,3\n"), id="too few columns"),
        pytest.param(gzip.compress(b"a,b\n"), id="no numbers"),
        pytest.param(gzip.compress(b"\xff\xfe"), id="no text"),
        pytest.param(gzip.compress(b"1,2\n" * 99)[:-9], id="cut off"),
    ],
)
def test_other_digits_that_cannot_be_read_are_refused(tmp_path, content):
    path = tmp_path / "digits.csv.gz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"digits\.csv\.gz is not the digits.*leave data\.path out"):
        load("digits", path=str(path))


def idx(array: np.ndarray, kind: int = 8) -> bytes:
    return struct.pack(">HBB", 0, kind, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


PICTURES = np.stack([noise(28, 28, 1, seed)[..., 0] for seed in range(20)])
LABELS = (np.arange(20) % 10).astype(np.uint8)


def write_set(
    folder: Path, pictures: np.ndarray = PICTURES, labels: np.ndarray = LABELS, packed: bool = True, part: str = "train"
) -> Path:
    for name, array in ((f"{part}-images-idx3-ubyte", pictures), (f"{part}-labels-idx1-ubyte", labels)):
        path = folder / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(idx(array)) if packed else idx(array))
    return folder


@pytest.mark.parametrize("packed", [True, False])
def test_a_set_in_idx_files_is_read_packed_or_not(tmp_path, packed):
    loaded = load("fashion-mnist", path=str(write_set(tmp_path, packed=packed)), held_out=0)
    np.testing.assert_array_equal(loaded.train.pictures[..., 0], PICTURES)
    np.testing.assert_array_equal(loaded.train.labels, LABELS)
    assert loaded.train.classes[9] == "Ankle boot"
    assert list(loaded.report.classes.values()) == [2] * 10


def test_either_part_of_the_set_is_read(tmp_path):
    write_set(tmp_path, PICTURES[:5], LABELS[:5], part="t10k")
    assert load_fashion_mnist(str(tmp_path), "t10k")[0].shape == (5, 28, 28, 1)


def test_files_that_are_not_there_come_with_a_way_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setattr(builtin_sets, "FASHION_MNIST_FOLDER", tmp_path / "not installed")
    for options in ({}, {"path": str(tmp_path)}):
        with pytest.raises(
            DataError,
            match=r"no train-images-idx3-ubyte\[\.gz\] in .*apt-get install dataset-fashion-mnist.*data\.path=FOLDER",
        ):
            load("fashion-mnist", **options)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("kept", [0, 2, 3, 4, 9, 16, 0.5, 0.999])
def test_a_truncated_idx_file_is_refused(tmp_path, packed, kept):
    write_set(tmp_path, packed=packed)
    path = tmp_path / ("train-images-idx3-ubyte" + ".gz" * packed)
    raw = path.read_bytes()
    path.write_bytes(raw[: kept if isinstance(kept, int) else int(len(raw) * kept)])
    with pytest.raises(DataError, match=r"train-images.* is not a whole idx file: .*; download it again"):
        load("fashion-mnist", path=str(tmp_path))


def test_a_packed_file_with_a_wrong_byte_is_refused(tmp_path):
    write_set(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    raw = path.read_bytes()
    for place in range(12, len(raw) - 8, 997):
        damaged = bytearray(raw)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="is not a whole idx file"):
            read_idx(path)


def test_idx_files_of_other_types_or_with_too_much_in_them_are_refused(tmp_path):
    for content in (idx(PICTURES, kind=13), idx(PICTURES) + b"\0"):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(DataError, match="is not a whole idx file"):
            read_idx(tmp_path / "x")


@pytest.mark.parametrize(
    ("pictures", "labels"),
    [
        (PICTURES, LABELS[:19]),
        (PICTURES[:19], LABELS),
        (PICTURES, LABELS + 1),
        (PICTURES[0], LABELS),
        (PICTURES, PICTURES),
    ],
)
def test_pictures_and_labels_that_do_not_fit_are_refused(tmp_path, pictures, labels):
    with pytest.raises(DataError, match=r"train files in .* do not fit together: pictures \(.*labels \("):
        load("fashion-mnist", path=str(write_set(tmp_path, pictures, labels)))


def test_an_empty_set_is_refused(tmp_path):
    with pytest.raises(DataError, match="fashion-mnist holds no pictures"):
        load("fashion-mnist", path=str(write_set(tmp_path, PICTURES[:0], LABELS[:0])))


@pytest.mark.skipif(not builtin_sets.FASHION_MNIST_FOLDER.is_dir(), reason="dataset-fashion-mnist is not installed")
def test_the_installed_set_is_the_real_one():
    pictures, labels, _ = load_fashion_mnist(part="t10k")
    assert pictures.shape == (10_000, 28, 28, 1)
    assert np.bincount(labels).tolist() == [1000] * 10

"""The extractor of the data at hand: reproducible, saved whole, and honest about which pictures it saw."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from alphabar.data.pictures import PictureSet
from alphabar.errors import ConfigurationError, DataError
from alphabar.evaluation.classifier import (
    ClassifierExtractor,
    load_classifier,
    picture_keys,
    save_classifier,
    train_classifier,
)


def stripes(n: int = 120, size: int = 8, channels: int = 1, seed: int = 0) -> PictureSet:
    """Noise with a bright row, a bright column, or neither."""
    g = np.random.default_rng(seed)
    pictures = g.integers(0, 100, (n, size, size, channels), dtype=np.uint8)
    labels = np.arange(n) % 3
    pictures[labels == 0, 3] = 250
    pictures[labels == 1, :, 4] = 250
    return PictureSet(pictures, labels.astype(np.int64), ["row", "column", "none"], [str(i) for i in range(n)])


@pytest.fixture(scope="module")
def made() -> ClassifierExtractor:
    return train_classifier(stripes(), "stripes", 60)


def test_it_learns_the_classes_from_the_pictures_with_the_least_keys_and_is_judged_on_the_others(made):
    assert made.origin.pictures == 60
    assert made.origin.judged_on == 60
    assert made.origin.accuracy > 0.9
    keys = picture_keys(stripes().pictures)
    assert made.knew(keys).sum() == 60
    assert keys[made.knew(keys)].max() < keys[~made.knew(keys)].min()  # the least ones
    assert not made.knew(picture_keys(stripes(500, seed=7).pictures)).any()
    fresh = stripes(60, seed=1)
    found = made(fresh.pictures)
    assert found.shape == (60, 128)
    assert (made.labels(found) == fresh.labels).mean() > 0.9
    own = made(stripes().pictures[made.knew(keys)])
    assert own.square().mean() == pytest.approx(1, rel=1e-4)  # so that kernel distances have a scale


def test_the_same_data_and_seed_give_the_same_extractor_and_leave_the_state_of_torch(made):
    torch.manual_seed(5)
    again = train_classifier(stripes(), "stripes", 60)
    state = torch.rand(1)
    torch.manual_seed(5)
    assert torch.rand(1) == state
    assert again.hash == made.hash
    assert train_classifier(stripes(), "stripes", 60, seed=1).hash != made.hash


def test_order_of_the_data_does_not_choose_the_pictures(made):
    data = stripes()
    turned = replace(data, pictures=data.pictures[::-1], labels=data.labels[::-1])
    assert np.array_equal(train_classifier(turned, "stripes", 60).seen, made.seen)


def test_saved_and_read_it_is_the_same(made, tmp_path):
    save_classifier(made, tmp_path / "x.safetensors")
    back = load_classifier(tmp_path / "x.safetensors")
    assert back.hash == made.hash
    assert back.origin == made.origin
    assert torch.equal(back(stripes().pictures), made(stripes().pictures))


@pytest.mark.parametrize("size", [8, 9, 28])
def test_any_size_and_any_number_of_channels(size):
    made = train_classifier(stripes(12, size, 3), "stripes", 12)
    assert made(stripes(5, size, 3).pictures).shape == (5, 128)
    assert made.origin.accuracy is None  # no others are left to judge it


def test_what_cannot_be_trained_on_or_read(made, tmp_path):
    data = stripes()
    with pytest.raises(DataError, match="has no classes"):
        train_classifier(replace(data, labels=None), "x", 10)
    with pytest.raises(DataError, match="too small"):
        train_classifier(stripes(size=7), "x", 10)
    with pytest.raises(DataError, match="must be 2 to 120"):
        train_classifier(data, "x", 121)
    with pytest.raises(ConfigurationError, match="trained on 8x8 pictures with 1 channels"):
        made(stripes(size=9).pictures)
    path: Path = tmp_path / "x.safetensors"
    for content in (b"", b"\x00" * 100):
        path.write_bytes(content)
        with pytest.raises(ConfigurationError, match="no extractor of alphabar"):
            load_classifier(path)
    save_classifier(made, path)
    whole = path.read_bytes()
    for place in (whole.index(b"stripes"), len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 64]) + whole[place + 1 :])
        with pytest.raises(ConfigurationError, match="is damaged"):
            load_classifier(path)
    path.write_bytes(whole.replace(b'\\"shape\\": [1, 8, 8]', b'\\"shape\\": []       '))
    with pytest.raises(ConfigurationError, match="no extractor of alphabar"):
        load_classifier(path)
    path.write_bytes(whole[:-9])
    with pytest.raises(ConfigurationError, match="no extractor of alphabar"):
        load_classifier(path)


def test_the_same_extractor_is_the_same_file(made, tmp_path):
    for name in "ab":
        save_classifier(made, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    again = load_classifier(tmp_path / "a")
    save_classifier(again, tmp_path / "c")
    assert (tmp_path / "c").read_bytes() == (tmp_path / "a").read_bytes()


def test_files_of_earlier_versions_are_read():
    """The extractor of the benchmarks has two keys and no check sum."""
    assert (
        load_classifier(Path(__file__).parents[2] / "benchmarks" / "data" / "fashion.safetensors").hash
        == "f9c04a4a9b14"
    )

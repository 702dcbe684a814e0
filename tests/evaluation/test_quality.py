"""Real pictures that are kept apart, copies that are found, classes that are judged."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from alphabar.data.pictures import PictureSet
from alphabar.errors import DataError
from alphabar.evaluation import quality
from alphabar.evaluation.classifier import picture_keys, train_classifier
from alphabar.evaluation.extractors import ScriptExtractor
from alphabar.evaluation.quality import Memorisation, choose_real, class_accuracy, nearest_pictures
from alphabar.evaluation.run_evaluation import Judged

from .test_classifier import stripes

PLAIN = ScriptExtractor(lambda x: x.flatten(1), "pixels", "0")


def noise(n: int, seed: int = 0) -> PictureSet:
    pictures = np.random.default_rng(seed).integers(0, 256, (n, 8, 8, 1), dtype=np.uint8)
    return PictureSet(pictures, names=[str(i) for i in range(n)])


def keys(data: PictureSet) -> set[int]:
    return set(picture_keys(data.pictures).tolist())


def test_reference_floor_and_what_the_extractor_saw_are_disjoint():
    data = stripes()
    extractor = train_classifier(data, "stripes", 40)
    sets = choose_real(data, None, extractor, 1000)
    assert len(sets.reference) == len(sets.floor) == 40
    assert sets.training is None
    assert not keys(sets.reference) & keys(sets.floor)
    assert not extractor.knew(picture_keys(sets.reference.pictures)).any()
    assert not extractor.knew(picture_keys(sets.floor.pictures)).any()
    assert sets.reference.labels is not None


def test_the_floor_is_of_training_pictures_that_the_reference_does_not_hold():
    both = np.concatenate([noise(30).pictures, noise(20, 1).pictures])
    training = PictureSet(both, names=[str(i) for i in range(50)])
    sets = choose_real(noise(30), training, PLAIN, 1000)  # all of the reference was trained on: half of what there is
    assert len(sets.reference) == len(sets.floor) == 25
    assert not keys(sets.floor) & keys(sets.reference)
    assert keys(sets.floor) > keys(noise(20, 1))
    assert len(sets.training) == 50
    same = choose_real(noise(30), noise(30), PLAIN, 1000)
    assert len(same.reference) == len(same.floor) == 15
    repeated = noise(100)
    repeated = PictureSet(repeated.pictures[np.arange(100) % 20], names=repeated.names)
    sets = choose_real(repeated, None, PLAIN, 1000)
    assert not keys(sets.floor) & keys(sets.reference)
    other = choose_real(noise(30), training, PLAIN, 12, seed=1)
    assert len(other.reference) == len(other.floor) == 12
    assert keys(other.reference) != keys(choose_real(noise(30), training, PLAIN, 12).reference)


def test_the_floor_has_the_classes_of_the_reference_where_samples_have_them():
    """One for one as far as there are so many, otherwise the rest of any class, and a note says how many."""
    names = ["a", "b"]
    data = replace(noise(40), labels=np.repeat([0, 1], [30, 10]), classes=names)
    training = replace(noise(60, 1), labels=np.repeat([0, 1], [15, 45]), classes=names)
    plain, alike = (choose_real(data, training, PLAIN, 16, like_reference=like) for like in (False, True))
    assert keys(alike.reference) == keys(plain.reference)
    assert sorted(alike.floor.labels) == sorted(alike.reference.labels) != sorted(plain.floor.labels)
    assert not alike.note
    whole = choose_real(data, training, PLAIN, 40, like_reference=True)
    assert len(whole.floor) == len(keys(whole.floor)) == 40
    assert np.bincount(whole.floor.labels).tolist() == [15, 25]
    assert "15 of the 40" in whole.note
    other_names = replace(training, classes=["b", "a"])
    assert keys(choose_real(data, other_names, PLAIN, 16, like_reference=True).floor) == keys(plain.floor)


def test_too_few_real_pictures():
    with pytest.raises(
        DataError, match="14 of 14 in the data were not seen by the extractor, 14 of them different; at least 16"
    ):
        choose_real(noise(14), None, PLAIN, 100)


def test_few_held_out_pictures_have_a_larger_share_of_copies_by_chance():
    """Where nothing is remembered: over many draws the share is the one that is told beside it."""
    g, shares = np.random.default_rng(0), []
    for _ in range(300):
        made, held_out, training = (g.integers(0, 256, (n, 3, 3, 1), np.uint8) for n in (30, 16, 10))
        found = Memorisation.between(made, held_out, training)
        shares.append(found.copies)
    assert np.mean(shares) == pytest.approx(found.expected, abs=0.02)
    assert found.expected > 0.06


def test_of_more_pictures_than_are_asked_for_some_are_drawn_and_not_the_first():
    judged = Judged(np.arange(40, dtype=np.uint8).reshape(40, 1, 1, 1), ["a"] * 20 + ["b"] * 20, {})
    some = judged.drawn(20, 0)
    assert len(some.pictures) == 20
    assert 4 < some.classes.count("b") < 16
    assert all(("a", "b")[int(p) >= 20] == c for p, c in zip(some.pictures.ravel(), some.classes, strict=True))
    assert np.array_equal(judged.drawn(20, 0).pictures, some.pictures)
    assert judged.drawn(40, 0) is judged


def test_copies_are_found():
    training, held_out = noise(200).pictures, noise(100, 1).pictures
    fresh = Memorisation.between(noise(100, 2).pictures, held_out, training)
    assert fresh.copies < 0.06
    assert fresh.samples == pytest.approx(fresh.held_out, rel=0.05)
    copied = noise(100, 2).pictures
    copied[:30] = training[50:80]
    found = Memorisation.between(copied, held_out, training)
    assert 0.3 <= found.copies < 0.36
    assert found.expected == pytest.approx(0.01, abs=0.02)
    mirrored = np.ascontiguousarray(training[100:, :, ::-1])
    assert Memorisation.between(mirrored, held_out, training).copies < 0.1
    assert Memorisation.between(mirrored, held_out, training, mirrored=True).copies == 1
    assert sorted(found.closest) == [(i, i + 50) for i in range(8)] or all(t == s + 50 for s, t in found.closest)
    assert found.training == 200


def test_nearest_pictures_are_those_of_all_parts(monkeypatch):
    a, b = noise(5).pictures, noise(9000, 3).pictures
    distance, index = nearest_pictures(a, b)
    x, y = (p.reshape(len(p), -1) / 127.5 - 1 for p in (a, b))
    expected = np.sqrt(((x[:, None] - y[None]) ** 2).mean(2))
    assert index.tolist() == expected.argmin(1).tolist()
    np.testing.assert_allclose(distance, expected.min(1), rtol=1e-5)


def test_class_accuracy():
    data = stripes()
    extractor = train_classifier(data, "stripes", 60)
    names = [data.classes[i] for i in data.labels]
    found = extractor(data.pictures)
    right = class_accuracy(extractor, found, names)
    assert right["share"] > 0.9
    assert set(right["by_class"]) == set(data.classes)
    turned = class_accuracy(extractor, found, ["row"] * len(names))
    assert turned["share"] == pytest.approx(1 / 3, abs=0.06)
    assert class_accuracy(extractor, found, ["zebra"] * len(names)) is None
    assert class_accuracy(PLAIN, found, names) is None
    assert class_accuracy(extractor, found, None) is None


def test_training_pictures_are_capped(monkeypatch):
    monkeypatch.setattr(quality, "REAL_AT_MOST", 15)
    sets = choose_real(noise(30), replace(noise(60, 1)), PLAIN, 10)
    assert len(sets.training) == 15
    assert torch.is_tensor(nearest_pictures(sets.reference.pictures, sets.training.pictures)[0])

"""Which real pictures a model is measured on: held out or all, numbered as the model numbers its classes, null where there is nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alphabar.data import builtin_sets
from alphabar.data.pictures import PictureSet, PointSet
from alphabar.errors import ConfigurationError, DataError
from alphabar.evaluation.pictures import real_pictures
from alphabar.evaluation.run_evaluation import settings_of
from alphabar.generation.pipeline import load
from alphabar.runs.checkpoint import find_checkpoint
from alphabar.training.session import prepare

from .conftest import folder_of, trained


def in_folder(folder: Path, name: str) -> np.ndarray:
    return np.array(Image.open(folder / name))[..., None]


def test_by_default_they_are_what_was_held_out(run, data):
    found = find_checkpoint(run)
    real = real_pictures(found)
    held_out = json.loads((run / "data.json").read_text())["held_out"]
    names = sorted(str(path.relative_to(data)) for path in data.rglob("*.png"))
    assert real.data.names == [names[i] for i in held_out]
    assert real.split == "held-out"
    assert len(real) == real.total == len(held_out) > 1
    assert real.null == []
    for i, name in enumerate(real.data.names):
        assert np.array_equal(real.data.pictures[i], in_folder(data, name))


def test_the_source_of_the_run_under_another_name_is_still_its_own(run, data, monkeypatch):
    monkeypatch.chdir(data.parent)
    assert real_pictures(find_checkpoint(run), data.name).data.names == real_pictures(find_checkpoint(run)).data.names


def test_all_of_the_run_is_all_of_it(run, data):
    real = real_pictures(find_checkpoint(run), split="all", n=100)
    assert sorted(real.data.names) == sorted(str(path.relative_to(data)) for path in data.rglob("*.png"))
    assert real.indices == list(range(24))


def test_a_number_of_them_is_drawn_by_the_seed_and_keeps_its_places(run):
    found = find_checkpoint(run)
    everything = real_pictures(found, split="all", n=24)
    few, others = real_pictures(found, split="all", n=6), real_pictures(found, split="all", n=6, seed=1)
    assert few.total == 24
    assert few.indices != others.indices
    assert few.data.names == [everything.data.names[i] for i in few.indices]
    assert set(few.indices) < set(real_pictures(found, split="all", n=9).indices)


def test_conditions_come_along(run, data):
    found, denoiser = find_checkpoint(run), load(run).denoiser
    real = real_pictures(found)
    x_0, cond, indices = real.batch(slice(1, 3), denoiser, 0)
    names = real.data.names[1:3]
    assert indices == [1, 2]
    assert torch.equal(x_0[0, 0], torch.from_numpy(in_folder(data, names[0])[..., 0]).float() / 127.5 - 1)
    values = {
        "class": np.array([["cat", "dog", "owl"].index(Path(name).parent.name) for name in names]),
        "text": np.array([(data / name).with_suffix(".txt").read_text() for name in names], object),
    }
    expected = denoiser.encode(values, 2)
    assert torch.equal(cond.vector, expected.vector)
    assert torch.equal(cond.tokens, expected.tokens)


def test_classes_of_another_folder_are_numbered_as_the_models(run, tmp_path):
    """It lacks the first class, so that its own numbers would be others."""
    other = folder_of(tmp_path / "other", ["owl", "dog"], 6)
    real = real_pictures(find_checkpoint(run), str(other))
    assert real.split == "all"
    assert len(real) == 6
    assert [real.data.classes[i] for i in real.data.labels] == [Path(name).parent.name for name in real.data.names]
    assert real.data.classes == ["cat", "dog", "owl"]


@pytest.mark.parametrize(
    ("classes", "captions", "null"),
    [(["dog", "owl"], False, ["text"]), (["."], True, ["class"]), (["."], False, ["class", "text"])],
)
def test_what_another_folder_does_not_have_is_null(run, tmp_path, classes, captions, null):
    other = folder_of(tmp_path / "other", classes, 6, captions)
    real = real_pictures(find_checkpoint(run), str(other))
    assert real.null == null
    denoiser = load(run).denoiser
    _, cond, _ = real.batch(slice(0, 6), denoiser, 0)
    nothing = denoiser.encode({}, 6)
    assert torch.equal(cond.vector, nothing.vector) == (len(null) == 2)


def test_arrays_bring_labels_and_captions(run, tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", images=pictures, text=np.array([f"thing {i}" for i in range(5)]))
    real = real_pictures(find_checkpoint(run), str(tmp_path / "x.npz"))
    assert np.array_equal(real.data.pictures, pictures)
    assert real.null == ["class"]  # this run's classes come from folders
    assert list(real.data.values["text"]) == [f"thing {i}" for i in range(5)]


def test_a_run_by_label_takes_labels_of_arrays(tmp_path):
    g = np.random.default_rng(0)
    pictures, labels = g.integers(0, 256, (16, 8, 8, 1), dtype=np.uint8), np.array(["b", "a"] * 8)
    np.savez(tmp_path / "train.npz", images=pictures, labels=labels)
    np.savez(tmp_path / "test.npz", images=pictures[:4], labels=np.array(["b"] * 4))
    np.save(tmp_path / "plain.npy", pictures[:4])
    found = find_checkpoint(trained(tmp_path / "train.npz", tmp_path / "run", **{"data.conditions": ["class"]}))
    assert real_pictures(found, str(tmp_path / "test.npz")).data.labels.tolist() == [1, 1, 1, 1]
    assert real_pictures(found, str(tmp_path / "plain.npy")).null == ["class"]


def test_the_test_part_of_fashion_mnist_is_a_set_of_its_own(monkeypatch):
    asked = []
    monkeypatch.setattr(
        builtin_sets, "read_idx", lambda path: asked.append(path.name) or np.zeros((2, 28, 28), np.uint8)
    )
    monkeypatch.setattr(builtin_sets, "find_idx", lambda folder, name: folder / name)
    with pytest.raises(DataError, match="t10k files"):  # labels cannot be (2, 28, 28)
        builtin_sets.BUILTIN_SETS["fashion-mnist-test"](None)
    assert asked == ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]


def test_conditions_made_from_pictures_are_made_and_their_chance_is_the_pictures_own(tmp_path, data):
    found = find_checkpoint(
        trained(data, tmp_path / "run", **{"data.conditions": ["image"], "conditions.image.task": "inpaint"})
    )
    real, denoiser = real_pictures(found), load(tmp_path / "run").denoiser
    assert real.null == []
    _, all_of_them, _ = real.batch(slice(0, 3), denoiser, 0)
    _, second, _ = real.batch(slice(1, 2), denoiser, 0)
    assert torch.equal(all_of_them.concat[1:2], second.concat)
    _, other_seed, _ = real.batch(slice(1, 2), denoiser, 1)
    assert not torch.equal(other_seed.concat, second.concat)


def test_pictures_that_do_not_fit_into_memory_are_read_all_the_same(run, data, tmp_path):
    found = find_checkpoint(trained(data, tmp_path / "run", **{"data.memory_gb": 1e-9, "data.conditions": []}))
    real = real_pictures(found, n=3)
    assert type(real.data.pictures) is np.ndarray
    assert np.array_equal(real.data.pictures[0], in_folder(data, real.data.names[0]))


def test_changed_data_are_refused_as_nobody_knows_what_was_held_out(tmp_path):
    folder = folder_of(tmp_path / "data", ["a"], captions=False)
    found = find_checkpoint(trained(folder, tmp_path / "run"))
    assert len(real_pictures(found))
    next(folder.rglob("*.png")).unlink()
    with pytest.raises(DataError, match=r"not what the run was trained on .*--data, or take --split all"):
        real_pictures(found)
    assert len(real_pictures(found, split="all")) == 23


def test_what_cannot_be_measured_says_so(run, tmp_path):
    found = find_checkpoint(run)
    colour = folder_of(tmp_path / "colour", ["cat"], 3)
    np.save(tmp_path / "colour.npy", np.zeros((2, 8, 8, 3), np.uint8))
    stranger = folder_of(tmp_path / "stranger", ["catt", "dog"], 4)
    for source, split, error, message in (
        (None, "held", ConfigurationError, "did you mean 'held-out'"),
        (str(colour), "held-out", ConfigurationError, "nothing of it is held out"),
        ("nowhere", None, DataError, "does not exist"),
        (str(tmp_path / "colour.npy"), None, ConfigurationError, "has 3 channels"),
        (str(stranger), None, DataError, "class 'catt', which the model was not trained with; did you mean 'cat'"),
    ):
        with pytest.raises(error, match=message):
            real_pictures(found, source, split)


def test_a_run_that_held_nothing_out_says_so(tmp_path, data):
    found = find_checkpoint(trained(data, tmp_path / "run", **{"data.held_out": 0, "data.conditions": []}))
    with pytest.raises(DataError, match=r"nothing of .* was held out"):
        real_pictures(found)


def test_a_run_of_data_from_python_takes_pictures_that_are_named(tmp_path):
    """Its settings do not say where classes come from, nor size and channels: labels or folders, and those of the model."""
    g = np.random.default_rng(0)
    own = PictureSet(g.integers(0, 256, (8, 8, 8, 1), dtype=np.uint8), np.arange(8) % 2, ["cat", "dog"])
    found = find_checkpoint(trained(own, tmp_path / "run"))
    with pytest.raises(DataError, match=r"given from Python.*is not there; name other pictures with --data"):
        real_pictures(found)
    colour = folder_of(tmp_path / "colour", ["dog", "cat"], 4, captions=False, channels=3)
    real = real_pictures(found, str(colour))
    assert real.data.shape == (1, 8, 8)
    assert real.data.labels.tolist() == [["cat", "dog"].index(Path(name).parent.name) for name in real.data.names]
    np.savez(tmp_path / "x.npz", images=own.pictures, labels=np.array(["dog"] * 8))
    assert real_pictures(found, str(tmp_path / "x.npz")).data.labels.tolist() == [1] * 8
    np.save(tmp_path / "x.npy", own.pictures)
    assert real_pictures(found, str(tmp_path / "x.npy")).null == ["class"]


def test_a_model_of_points_has_no_pictures(tmp_path):
    points = PointSet(torch.randn(64, 2, generator=torch.Generator().manual_seed(0)))
    list(prepare(points, tmp_path / "run", steps=1, settings={"network.kind": "mlp", "schedule.steps": 25}).run())
    with pytest.raises(ConfigurationError, match="makes points"):
        real_pictures(find_checkpoint(tmp_path / "run"))


def test_unreadable_files_are_counted(run, tmp_path):
    other = folder_of(tmp_path / "other", ["dog"], 4)
    (other / "dog" / "broken.png").write_bytes(b"no picture")
    (other / "dog" / "broken.txt").write_text("a caption")
    assert real_pictures(find_checkpoint(run), str(other)).skipped == 1


def test_arrays_of_another_length_do_not_matter(tmp_path):
    """Such as the names of the classes beside their labels."""
    pictures, labels = np.zeros((12, 8, 8, 1), np.uint8), np.arange(12) % 3
    np.savez(tmp_path / "x.npz", images=pictures, labels=labels, names=np.array(["a", "b", "c"]))
    settings = settings_of(str(tmp_path / "x.npz"), None)
    assert (settings.class_from, settings.conditions) == ("label", ["class"])

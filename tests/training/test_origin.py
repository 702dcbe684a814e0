"""Fine-tuning: a new run starts from the averaged weights and the network of another, and says what does not come from there."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alphabar.errors import CheckpointError, ConfigurationError
from alphabar.runs.checkpoint import find_checkpoint, open_checkpoint
from alphabar.training.origin import encoder_of
from alphabar.training.session import prepare

from .small import two_moons
from .test_session import FAST

TRAIN = {key: value for key, value in FAST.items() if key.startswith("train.")}
CLASSES = {"data.class_from": "folder", "data.conditions": ["class"]}
NO_CLASSES = {"data.class_from": "none", "data.conditions": []}


def folder_of(place: Path, *classes: str, size: int = 8) -> Path:
    """Random grey pictures, six of each class."""
    g = np.random.default_rng(len(place.name))
    for name in classes:
        for i in range(6):
            path = place / name / f"{name}{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(g.integers(0, 256, (size, size), dtype=np.uint8)).save(path)
    return place


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("origin")


@pytest.fixture(scope="module")
def origin(place) -> Path:
    """A run of a few steps on two classes, with a network and a diffusion that no preset has."""
    data = folder_of(place / "animals", "cat", "dog")
    settings = FAST | CLASSES | {"diffusion.prediction": "v", "schedule.kind": "cosine", "network.channels": [8, 24]}
    settings |= {"train.ema_decay": 0.5, "train.learning_rate": 0.01, "seed": 4, "train.checkpoint_every": 2}
    list(prepare(str(data), place / "run", steps=3, settings=settings).run())
    return place / "run"


def averaged(origin: Path) -> dict[str, torch.Tensor]:
    return find_checkpoint(origin).tensors("ema")


def tuned(origin, data, out, steps=2, **settings):
    return prepare(str(data), out, steps=steps, init=origin, settings=TRAIN | CLASSES | settings)


def test_a_run_starts_from_the_averaged_weights_of_another(origin, place, tmp_path):
    session = tuned(origin, place / "animals", tmp_path / "run")
    start, average = session.trainer.denoiser.state_dict(), session.trainer.updater.ema.state_dict()
    assert start.keys() == averaged(origin).keys()
    for name, tensor in averaged(origin).items():
        assert torch.equal(start[name], tensor), name
        assert torch.equal(average[name], tensor), name
    raw = find_checkpoint(origin).tensors("model")
    assert any(not torch.equal(raw[name], tensor) for name, tensor in averaged(origin).items())
    assert session.fresh == []
    assert session.plan.first_step == 0


def test_what_it_learned_is_there_at_the_first_step(origin, place, tmp_path):
    """With a rate next to 0 the first checkpoint holds the origin's average still, in the weights and in their average."""
    session = tuned(origin, place / "animals", tmp_path / "run", 1, **{"train.learning_rate": 1e-12})
    list(session.run())
    checkpoint = open_checkpoint(tmp_path / "run" / "checkpoints" / "step-1")
    for part in ("model", "ema"):
        for name, tensor in checkpoint.tensors(part).items():
            torch.testing.assert_close(tensor, averaged(origin)[name], rtol=1e-6, atol=1e-9)
    assert checkpoint.step == 1


def test_the_network_its_process_and_the_size_are_inherited_and_nothing_else(origin, place, tmp_path):
    data = folder_of(tmp_path / "large", "cat", "dog", size=20)
    config, old = tuned(origin, data, tmp_path / "run").config, find_checkpoint(origin).config
    for section in ("network", "schedule", "diffusion", "preset"):
        assert getattr(config, section) == getattr(old, section), section
    assert config.diffusion.prediction == "v"
    assert config.network.channels == [8, 24]
    assert config.data.size == [8, 8]
    assert config.data.channels == 1
    assert (config.seed, config.train.ema_decay, config.train.learning_rate) == (0, 0.9999, 2e-3)
    assert config.train.steps == 2


@pytest.mark.parametrize(
    ("classes", "fresh"),
    [
        (("cat", "dog"), []),
        (("cat", "dog", "owl"), ["class"]),
        (("apple", "pear"), ["class"]),  # as many, but other ones
    ],
)
def test_other_classes_start_fresh_and_the_rest_does_not(origin, tmp_path, classes, fresh):
    session = tuned(origin, folder_of(tmp_path / "data", *classes), tmp_path / "run")
    assert session.fresh == fresh
    weights, old = session.trainer.denoiser.state_dict(), averaged(origin)
    assert session.trainer.denoiser.encoders["class"].classes == list(classes)
    for name, tensor in weights.items():
        assert torch.equal(session.trainer.updater.ema.state_dict()[name], tensor)
        if name.startswith("network."):
            assert torch.equal(tensor, old[name]), name
        else:
            assert (tensor.shape == old[name].shape and torch.equal(tensor, old[name])) == (not fresh)
    list(session.run())


@pytest.mark.parametrize("new", [NO_CLASSES, {}], ids=["left out", "anew"])
def test_classes_may_be_left_out_or_come_anew(origin, place, tmp_path, new):
    plain = tuned(origin, place / "animals", tmp_path / "plain", 1, **NO_CLASSES)
    assert plain.fresh == []
    list(plain.run())
    again = tuned(tmp_path / "plain", place / "animals", tmp_path / "again", 1, **new)
    assert again.fresh == ([] if new else ["class"])
    list(again.run())


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"network.channels": [8, 16]}, "network."),
        ({"network.channels": [8, 24, 24], "network.attention": [False, True, True]}, "network."),
        ({"network.blocks": 2}, "network."),
        ({"data.channels": 3}, "network."),
        ({"diffusion.learned_variance": True}, "network."),
        ({"network.attention": [False, False]}, "network."),  # less than there is
    ],
    ids=["wider", "deeper", "more blocks", "colour", "learned variance", "less attention"],
)
def test_another_network_is_refused_with_the_reason(origin, place, tmp_path, settings, name):
    with pytest.raises(
        CheckpointError, match=rf"does not fit this network, for example {name}.*leave network settings out"
    ):
        tuned(origin, place / "animals", tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def test_a_map_that_the_origin_had_not_is_refused(origin, tmp_path):
    data = folder_of(tmp_path / "images", "cat", "dog")
    for path in list(data.rglob("*.png")):
        mask = tmp_path / "maps" / path.relative_to(data)
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) % 3).save(mask)
    with pytest.raises(CheckpointError, match="give the same conditions"):
        tuned(origin, tmp_path, tmp_path / "run", **{"data.conditions": ["map"], "data.class_from": "none"})


def test_a_checkpoint_folder_will_do_and_older_ones_too(origin, place, tmp_path):
    step = origin / "checkpoints" / "step-2"
    session = tuned(step, place / "animals", tmp_path / "run")
    assert session.origin.path == step
    old = open_checkpoint(step).tensors("ema")
    assert all(torch.equal(tensor, old[name]) for name, tensor in session.trainer.denoiser.state_dict().items())
    assert any(not torch.equal(tensor, old[name]) for name, tensor in averaged(origin).items())


def test_points_go_on_from_points(tmp_path):
    settings = {"network.kind": "mlp", "network.width": 16, "train.batch_size": 8, "schedule.steps": 50}
    list(prepare(two_moons(40), tmp_path / "one", steps=2, settings=settings).run())
    session = prepare(two_moons(40, 1), tmp_path / "two", steps=2, init=tmp_path / "one")
    assert session.config.network.width == 16
    old = averaged(tmp_path / "one")
    assert all(torch.equal(tensor, old[name]) for name, tensor in session.trainer.denoiser.state_dict().items())


def test_a_fine_tuned_run_resumes_like_any_other(origin, place, tmp_path):
    list(tuned(origin, place / "animals", tmp_path / "straight", 4).run())
    list(tuned(origin, place / "animals", tmp_path / "halves", 2).run())
    list(prepare(None, tmp_path / "halves", steps=4, resume=True).run())
    one, other = (open_checkpoint(tmp_path / n / "checkpoints" / "step-4") for n in ("straight", "halves"))
    assert {name: file["sha256"] for name, file in one.files.items()} == {name: file["sha256"] for name, file in other.files.items()}  # fmt: skip


def test_init_and_resume_are_one_or_the_other(origin, tmp_path):
    with pytest.raises(ConfigurationError, match="--resume goes on with a run, --init starts a new one"):
        prepare(None, origin, steps=9, resume=True, init=origin)


@pytest.mark.parametrize(("init", "message"), [("nowhere", "does not exist"), (".", "not a run folder")])
def test_what_is_no_run_is_refused(place, tmp_path, monkeypatch, init, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        tuned(init, place / "animals", tmp_path / "run")


def test_an_origin_is_never_written_over(origin, place):
    with pytest.raises(CheckpointError, match="exists already"):
        tuned(origin, place / "animals", origin)


def test_damaged_weights_are_refused(origin, place, tmp_path):
    shutil.copytree(origin, tmp_path / "run")
    path = tmp_path / "run" / "checkpoints" / "step-3" / "ema.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="step-2 is whole"):
        tuned(tmp_path / "run", place / "animals", tmp_path / "new")


def test_a_weight_belongs_to_its_encoder_or_to_the_network():
    assert encoder_of("encoders.kinds.class.embedding.weight") == "class"
    assert encoder_of("network.blocks.0.weight") == ""

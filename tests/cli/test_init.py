"""`alphabar train --init`: what is said of where the weights come from."""

from __future__ import annotations

import numpy as np
import pytest

from alphabar.runs.folder import RunFolder
from alphabar.training.session import prepare

from .test_conditions import TINY, save

TRAIN = [word for key, value in TINY.items() if key.startswith("train.") for word in ("--set", f"{key}={value}")]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run on two classes of grey pictures, and folders with the same and other classes."""
    folder, g = tmp_path_factory.mktemp("init"), np.random.default_rng(0)
    for data, classes in {"same": ("cat", "dog"), "more": ("cat", "dog", "owl")}.items():
        for k in range(12):
            save(folder / data / classes[k % len(classes)] / f"{k}.png", g.integers(0, 256, (8, 8), dtype=np.uint8))
    settings = TINY | {"data.conditions": ["class"], "data.class_from": "folder", "diffusion.prediction": "v"}
    list(prepare(folder / "same", folder / "run", steps=2, settings=settings).run())
    return folder


@pytest.fixture
def train(alphabar, place, tmp_path):
    def call(data, *arguments, out="new"):
        return alphabar(
            "train", place / data, "--out", tmp_path / out, "--class-from", "folder", "--steps", 2, *TRAIN, *arguments
        )

    return call


def test_a_run_is_fine_tuned_with_the_network_of_the_other_and_says_so(train, place, tmp_path):
    code, said, error = train("same", "--init", place / "run")
    assert code == 0, error
    assert f"init    averaged weights of {place / 'run' / 'checkpoints' / 'step-2'}\n" in said
    config = RunFolder.open(tmp_path / "new").config
    assert config.network.channels == [8, 16]
    assert config.diffusion.prediction == "v"
    assert "done: 2 steps" in said


def test_other_classes_are_said_to_be_new(train, place):
    code, said, error = train("more", "--init", place / "run" / "checkpoints" / "step-2")
    assert code == 0, error
    assert "step-2; new: class" in said
    assert "classes 3: cat (4), dog (4), owl (4)" in said


def test_a_dry_run_says_where_it_would_start_and_writes_nothing(train, place, tmp_path):
    code, said, _ = train("same", "--init", place / "run", "--dry-run")
    assert code == 0
    assert "init    averaged weights" in said
    assert not (tmp_path / "new").exists()


BAD = {
    "resume": (["--init", "RUN", "--resume"], "--resume goes on with a run, --init starts a new one"),
    "another network": (["--init", "RUN", "--set", "network.channels=[16,16]"], "does not fit this network, for example network."),
    "nothing there": (["--init", "nowhere"], "does not exist"),
    "not a run": (["--init", "DATA"], "not a run folder"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_started_from_exits_2_and_says_why(train, place, tmp_path, case):
    arguments, expected = BAD[case]
    places = {"RUN": place / "run", "DATA": place / "same"}
    code, _, error = train("same", *[places.get(word, word) for word in arguments])
    assert code == 2
    assert expected in error
    assert "Traceback" not in error
    assert not (tmp_path / "new").exists()

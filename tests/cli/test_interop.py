"""`alphabar export` and `alphabar import` as a user runs them."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from alphabar.interop.files import read_json

from ..interop.making import CLASSES, make_run

TINY = [
    "network.channels=[8,16]", "network.blocks=1", "network.attention=[false,true]", "network.groups=4", "schedule.steps=25",
    "train.batch_size=8", "train.preview_pictures=2", "train.preview_steps=2", "train.validation_pictures=8",
]  # fmt: skip
SETS = [word for setting in TINY for word in ("--set", setting)]
MAP = {"map": {"classes": ["sky", "sea"], "colours": ["#0000ff", "#00ff00"]}}


def test_train_export_import_sample(alphabar, tmp_path):
    run, theirs, back = (tmp_path / name for name in ("run", "digits", "back"))
    code, _, said = alphabar("train", "digits", "--out", run, "--steps", 2, *SETS)
    assert code == 0, said
    code, said, _ = alphabar("export", run, "--to", "diffusers", theirs, "--license", "mit")
    assert code == 0
    assert "a diffusers pipeline; its README.md says how" in said
    card = (theirs / "README.md").read_text()
    assert "license: mit" in card
    assert "Data: digits, 1797 pictures of 8x8" in card
    assert (theirs / "samples.png").is_file()
    code, said, _ = alphabar("import", theirs, "--out", back)
    assert code == 0
    assert "8x8, 1 channels, 10 classes; linear schedule of 25 steps, predicts eps" in said
    assert f"next: alphabar sample {back} -n 16" in said
    assert "note:" not in said
    code, said, _ = alphabar("info", back)
    assert "step-0" in said
    for folder in (run, back):
        code, _, said = alphabar(
            "sample", folder, "--class", 7, "--seed", 3, "-n", 2, "--steps", 5, "--out", tmp_path / f"{folder.name}.npy"
        )
        assert code == 0, said
    assert (np.load(tmp_path / "run.npy") == np.load(tmp_path / "back.npy")).all()
    for words in (
        ("edit", back, "--seeds", "1,2", "-n", 3, "--steps", 3, "--out", tmp_path / "way.npy"),
        ("likelihood", back, "--data", "digits", "-n", 2, "--steps-bound", 3, "--steps-ode", 3),
        ("train", "digits", "--init", back, "--steps", 1, "--out", tmp_path / "tuned", *SETS),
    ):
        code, _, error = alphabar(*words)
        assert code == 0, error
    code, _, said = alphabar("train", "digits", "--out", back, "--resume", "--steps", 4)
    assert code == 2
    assert f"alphabar train DATA --init {back} --out NEW" in " ".join(said.split())


def test_options_of_export(alphabar, tmp_path):
    run = make_run(tmp_path / "run", conditions=CLASSES, sample={"variance": "beta", "steps": 50})
    out = tmp_path / "out"
    code, said, _ = alphabar("export", run, out, "--to", "diffusers", "--raw-weights", "--checkpoint", 6, "--no-grid")
    assert code == 0
    assert "note: with this variance DDPMScheduler adds noise" in said
    assert "the weights of training" in (out / "README.md").read_text()
    assert "num_inference_steps" not in (out / "README.md").read_text()
    assert "set_timesteps(50)" in (out / "README.md").read_text()
    assert sorted(os.listdir(out)) == ["README.md", "model_index.json", "scheduler", "unet"]


def test_the_size_of_an_import(alphabar, tmp_path):
    run = make_run(tmp_path / "run", (3, 8, 8))
    assert alphabar("export", run, tmp_path / "theirs", "--to", "diffusers", "--no-grid")[0] == 0
    path = tmp_path / "theirs" / "unet" / "config.json"
    path.write_text(json.dumps(read_json(path) | {"sample_size": None, "newer": 1}))
    code, said, _ = alphabar("import", tmp_path / "theirs", "--out", tmp_path / "back", "--size", "8x12")
    assert code == 0
    assert "8x12, 3 channels, unconditional" in said
    assert "note: fields that UNet2DModel does not know were ignored, as diffusers does: newer" in said


def test_onnx(alphabar, tmp_path):
    pytest.importorskip("onnxscript")
    run = make_run(tmp_path / "run", network={"channels": [8], "attention": [False], "middle_attention": False})
    code, said, error = alphabar("export", run, "--to", "onnx", tmp_path / "new" / "x.onnx")
    assert code == 0
    assert "x.onnx: the network with what a sampler needs" in said
    assert not error
    assert os.listdir(tmp_path / "new") == ["x.onnx"]


BAD = {
    "no format": (["export", "RUN", "OUT"], "Missing option '--to'"),
    "unknown format": (["export", "RUN", "OUT", "--to", "difusers"], "did you mean 'diffusers'"),
    "no run": (["export", "nowhere", "OUT", "--to", "diffusers"], "nowhere does not exist"),
    "no checkpoint": (["export", "RUN", "OUT", "--to", "diffusers", "--checkpoint", "9"], "no checkpoint '9'"),
    "a map": (["export", "MAP", "OUT", "--to", "diffusers"], "the condition map (map) has no door in UNet2DModel"),
    "not empty": (["export", "RUN", "RUN", "--to", "diffusers"], "exists already"),
    "no onnx": (["export", "RUN", "OUT", "--to", "onnx"], "needs a name that ends in .onnx"),
    "no card": (["export", "RUN", "x.onnx", "--to", "onnx", "--no-grid"], "has no model card"),
    "no pipeline": (["import", "RUN", "--out", "OUT"], "has no unet/config.json or config.json"),
    "onto a run": (["import", "nowhere", "--out", "RUN"], "exists already"),
    "size": (["import", "RUN", "--out", "OUT", "--size", "8by8"], "data.size must be like 32 or 32x48"),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("interop")
    make_run(folder / "run")
    make_run(folder / "map", conditions=MAP)
    return folder


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_done_is_said_in_a_line_or_two(case, runs, alphabar, tmp_path):
    arguments, message = BAD[case]
    places = {"RUN": runs / "run", "MAP": runs / "map", "OUT": tmp_path / "out"}
    code, _, said = alphabar(*(places.get(word, word) for word in arguments))
    assert code == 2
    assert message in said
    assert len(said.splitlines()) <= 2 or case == "no format"
    assert not os.listdir(tmp_path)

"""`alphabar likelihood`: says what it measured, writes all of it, refuses in a line what it cannot measure."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from alphabar.training.session import prepare

TINY = {
    "network.channels": [8, 16], "network.blocks": 1, "network.attention": [False, True], "network.groups": 4, "schedule.steps": 25,
    "train.batch_size": 8, "train.preview_pictures": 2, "train.preview_steps": 2, "train.validation_pictures": 4,
}  # fmt: skip
QUICK = ("--steps-bound", 4, "--steps-ode", 4)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of one step on the digits, by class."""
    out = tmp_path_factory.mktemp("cli") / "run"
    list(prepare("digits", out, steps=1, settings=TINY).run())
    return out


def test_it_reports_both_with_standard_errors_and_says_that_they_are_two_models(alphabar, run, tmp_path):
    out = tmp_path / "likelihood.json"
    code, said, error = alphabar("likelihood", run, "-n", 6, "--steps-ode", 5, "--out", out)
    assert code == 0, error
    assert "digits: 6 of the 90 pictures held out from training, 8x8, 1 channel" in said
    assert "cond    class of the data" in said
    for name in ("variational bound", "  prior", "  steps", "  decoder", "probability-flow ODE"):
        assert re.search(rf"^{name} +-?\d+\.\d{{4}}  ± \d+\.\d{{4}}", said, flags=re.M), said
    assert "ancestral sampling, 25 steps, variance posterior, clip static" in said
    assert "neither bounds the other" in said
    told = json.loads(out.read_text())
    assert len(told["each"]["bound"]) == len(told["each"]["ode"]) == 6
    assert len(told["per_step"]) == 25
    assert told["record"]["data"] == "digits"
    assert f"(model {told['record']['model']})" in said
    assert f"{told['bound']['mean']:.4f}" in said
    assert f"all of it in {out}" in said
    again = tmp_path / "again.json"
    alphabar("likelihood", run, "-n", 6, "--steps-ode", 5, "--batch", 6, "--out", again)
    assert json.loads(again.read_text()) == told


def test_options_reach_what_they_are_about(alphabar, run, tmp_path):
    out = tmp_path / "x.json"
    options = (
        "-n",
        3,
        "--variance",
        "beta",
        "--seed",
        5,
        "--probes",
        2,
        "--raw-weights",
        "--checkpoint",
        "step-1",
        "--split",
        "all",
    )
    code, said, error = alphabar("likelihood", run, *QUICK, *options, "--batch", 2, "--device", "cpu", "--out", out)
    assert code == 0, error
    assert "3 of the 1797 pictures in all" in said
    record = json.loads(out.read_text())["record"]
    assert (
        record | {"variance": "beta", "seed": 5, "probes": 2, "weights": "raw", "bound_steps": 4, "ode_steps": 4}
        == record
    )
    assert (record["of"], record["pictures"], record["split"]) == (1797, 3, "all")


def test_other_pictures_without_classes_are_measured_with_the_null_one(alphabar, run, tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 256, (2, 9, 12, 1), dtype=np.uint8))
    code, said, error = alphabar("likelihood", run, "--data", tmp_path / "x.npy", *QUICK)
    assert code == 0, error
    assert "2 of the 2 pictures in all, 8x8" in said  # resized as in training
    assert "cond    nothing of the data; null, as the data has none: class" in said


BAD = {
    "no run": (["nowhere"], "does not exist"),
    "no data": (["RUN", "--data", "nowhere"], "'nowhere' does not exist"),
    "unknown split": (["RUN", "--split", "test"], "unknown split 'test'"),
    "held out of other data": (["RUN", "--data", "fashion-mnist-test", "--split", "held-out"], "was not trained on"),
    "more steps than T": (["RUN", "--steps-bound", "26"], "at most 25"),
    "unknown variance": (["RUN", "--variance", "bta"], "did you mean 'beta'"),
    "variance not learned": (["RUN", "--variance", "learned"], "did not learn its variance"),
    "no json": (["RUN", "--out", "x.png"], "path of a .json file"),
    "below a file": (["RUN", "--out", "FILE/x.json"], "path of a .json file"),
    "unknown checkpoint": (["RUN", "--checkpoint", "9"], "there are: step-1"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_measured_ends_with_a_line(alphabar, run, tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    arguments, expected = BAD[case]
    places = {"RUN": str(run), "FILE/x.json": str(tmp_path / "file" / "x.json")}
    code, _, error = alphabar("likelihood", *[places.get(word, word) for word in arguments])
    assert code == 2
    assert expected in error
    assert len(error.strip().splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_continuous_schedule_asks_for_a_number_of_steps(alphabar, tmp_path):
    settings = TINY | {"schedule.kind": "continuous_cosine", "diffusion.time": "log_snr"}
    list(prepare("digits", tmp_path / "run", steps=1, settings=settings).run())
    code, _, error = alphabar("likelihood", tmp_path / "run", "-n", 2)
    assert code == 2
    assert "--steps-bound" in error
    code, said, error = alphabar("likelihood", tmp_path / "run", "-n", 2, *QUICK)
    assert code == 0, error
    assert "4 steps" in said

"""Runs of the format that data/ holds open, sample, go on, are measured, exported (ONNX: test_readme.py), repeated."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from alphabar import AlphabarError, load

from .cases import MORE, QUIET, RUNS, STEPS, continued_losses, options, run_command
from .test_behaviour import PINS, assert_pinned

SOURCES = {run: run.removesuffix("-run") for run in RUNS}
CONDITIONS = {"digits-run": ["class"], "shapes-run": ["class", "text"]}
CLASSES = {"digits-run": list("0123456789"), "shapes-run": ["circle", "cross", "square"]}


def steps_of(run: str) -> list[int]:
    """The steps of the lines of metrics.jsonl."""
    return [json.loads(line)["step"] for line in Path(run, "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("run", RUNS)
def test_a_run_opens(place, run_words, run):
    pipeline = load(run)
    assert pipeline.conditions == CONDITIONS[run]
    assert pipeline.classes == CLASSES[run]
    assert pipeline.shape == (1 if run == "digits-run" else 3, 8, 8)
    for path in (run, f"{run}/checkpoints/step-{STEPS}"):
        said = run_words("info", path)
        assert f"step-{STEPS}" in said
        assert json.dumps(CLASSES[run]) in said


@pytest.mark.parametrize("run", RUNS)
def test_a_run_samples_on_the_command_line_as_from_python(place, run_words, run):
    words = ["--prompt", "a red circle"] if run == "shapes-run" else ["--class", "7"]
    asked = {"prompt": "a red circle"} if run == "shapes-run" else {"label": "7"}
    run_words("sample", run, "--seeds", "3,5", "--sampler", "unipc", "--steps", 3, *words, "--out", "x.npy")
    made = load(run).with_settings(sampler="unipc", steps=3).sample(seeds=[3, 5], **asked).pictures
    assert np.abs(np.load("x.npy").astype(int) - made).max() <= 1


@pytest.mark.parametrize("run", RUNS)
def test_a_run_goes_on_with_the_pinned_losses(place, run):
    assert_pinned(continued_losses(Path(run), SOURCES[run]), PINS["continued"][run])


@pytest.mark.parametrize("run", RUNS)
def test_a_run_goes_on_from_the_command_line(place, run_words, run):
    said = run_words("train", SOURCES[run], "--out", run, "--resume", "--steps", STEPS + MORE)
    assert f"plan from step {STEPS} to step {STEPS + MORE} " in said
    assert [path.name for path in Path(run, "checkpoints").iterdir()] == [f"step-{STEPS + MORE}"]
    assert steps_of(run) == [20, STEPS, STEPS + MORE]


def test_changed_data_is_noticed(place):
    Path("shapes/circle/0.png").unlink()
    with pytest.raises(AlphabarError, match="accept-changed-data"):
        continued_losses(Path("shapes-run"), "shapes")


def test_a_run_with_classes_is_exported(place, run_words):
    run_words("export", "digits-run", "diffusers", "--to", "diffusers", "--no-grid")
    assert json.loads(Path("diffusers/model_index.json").read_text())["unet"] == ["diffusers", "UNet2DModel"]
    run_words("import", "diffusers", "--out", "back")
    made = [
        load(run).with_settings(sampler="ddim", steps=3).sample(seeds=[1, 2]).pictures for run in ("digits-run", "back")
    ]
    assert np.abs(made[0].astype(int) - made[1]).max() <= 1


def test_a_run_with_text_is_refused_by_diffusers(place):
    with pytest.raises(AlphabarError, match=r"condition text .* use --to onnx"):
        run_command("export", "shapes-run", "refused", "--to", "diffusers")
    assert not Path("refused").exists()


@pytest.mark.parametrize(("run", "n"), [("digits-run", 32), ("shapes-run", 8)])
def test_a_run_is_evaluated(place, run_words, run, n):
    source = {"digits-run": ["digits", "--pictures", 60], "shapes-run": ["shapes", "--pictures", 8]}[run]
    run_words("extractor", *source, "--out", "x.safetensors")
    run_words("evaluate", run, "--extractor", "x.safetensors", "-n", n, "--steps", 2)
    assert json.loads(Path(run, "evaluation.json").read_text())["record"]["steps"] == 2


@pytest.mark.parametrize("run", RUNS)
def test_the_likelihood_of_a_run_is_measured(place, run_words, run):
    run_words("likelihood", run, "-n", 2, "--steps-bound", 3, "--steps-ode", 3, "--out", "likelihood.json")
    assert json.loads(Path("likelihood.json").read_text())["record"]["pictures"] == 2


@pytest.mark.parametrize("run", RUNS)
def test_a_run_lends_its_weights_to_another(place, run_words, run):
    data = ["digits"] if run == "digits-run" else ["shapes", "--class-from", "folder"]
    said = run_words("train", *data, "--init", run, "--out", "tuned", "--steps", 2, *options(QUIET))
    assert f"init averaged weights of {run}" in said
    assert load("tuned").conditions == CONDITIONS[run]


@pytest.mark.parametrize("run", RUNS)
def test_a_run_is_repeated_from_its_configuration(place, run_words, run):
    run_words("train", SOURCES[run], "--config", f"{run}/config.yaml", "--out", "again")
    assert Path("again/config.yaml").read_text() == Path(run, "config.yaml").read_text()
    first, second = (
        [json.loads(line)["loss"] for line in Path(name, "metrics.jsonl").read_text().splitlines()]
        for name in (run, "again")
    )
    assert len(second) == len(first)
    assert second == pytest.approx(first, rel=0.2)  # other noise than that of the run, which was not keyed by item

"""Samplers and grids on the command line: by name, by an option of their own, or picked; what does not go together."""

from __future__ import annotations

import numpy as np
import pytest

from alphabar.generation.images import read_record
from alphabar.samplers.methods import auto_choice
from alphabar.tasks.running.inputs import parse_seeds
from alphabar.training.session import prepare

from .test_conditions import TINY


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of one step on the digits."""
    out = tmp_path_factory.mktemp("samplers") / "run"
    list(prepare("digits", out, steps=1, settings=TINY | {"data.conditions": []}).run())
    return out


@pytest.fixture
def sampled(alphabar, run, tmp_path):
    """Sample two pictures into a grid; returns (its record, what was said)."""

    def call(*arguments: object) -> tuple[dict, str]:
        code, said, error = alphabar("sample", run, "-n", 2, "--out", tmp_path / "x.png", *arguments)
        assert code == 0, error
        return read_record(tmp_path / "x.png"), said

    return call


@pytest.mark.parametrize(
    ("sampler", "grid"),
    [("heun", "karras"), ("dpm++2m", "log_snr"), ("unipc", "quadratic"), ("plms", "leading"), ("ddim", "linspace"), ("dpm++2m-sde", None)],
)  # fmt: skip
def test_a_sampler_and_a_grid_are_named(sampled, sampler, grid):
    record, said = sampled("--sampler", sampler, "--steps", 5, *(["--grid", grid] if grid else []))
    assert (record["sampler"], record["grid"], record["steps"]) == (sampler, grid or "trailing", 5)
    assert f"{sampler} on {grid or 'trailing'} in 5 steps" in said
    assert "picked" not in said


@pytest.mark.parametrize("steps", [3, 20])
def test_auto_says_what_it_picked(sampled, steps):
    choice = auto_choice(steps)
    record, said = sampled("--steps", steps)
    assert f"{choice.sampler} on {choice.grid} (picked by auto) in {steps} steps" in said
    assert (record["sampler"], record["grid"]) == (choice.sampler, choice.grid)
    record, said = sampled("--steps", steps, "--grid", "karras", "--sampler", "auto")
    assert f"{choice.sampler} on karras (picked by auto)" in said
    assert (record["sampler"], record["grid"]) == (choice.sampler, "karras")


@pytest.mark.parametrize(
    ("option", "sampler", "steps"), [("eta", "ddim", 25), ("tolerance", "adaptive", 10), ("variance", "ancestral", 25)]
)
def test_an_option_of_one_sampler_implies_it(sampled, option, sampler, steps):
    value = "beta" if option == "variance" else 0.5
    record, said = sampled(f"--{option}", value)
    assert record["sampler"] == sampler
    assert record[option] == value
    assert f"{sampler} on trailing in {steps} steps" in said  # at most T = 25 of them
    assert "picked" not in said
    assert sampled(f"--{option}", value, "--sampler", sampler)[0] == record


def test_what_is_named_is_what_is_used(alphabar, run, tmp_path):
    made = {}
    for i, words in enumerate(("--sampler heun", "--sampler euler", "--eta 0", "--eta 1", "--eta 0 --grid karras")):
        alphabar("sample", run, "--seeds", "0-2", "--steps", 4, "--out", tmp_path / f"{i}.npy", *words.split())
        made[words] = np.load(tmp_path / f"{i}.npy").astype(int)
    assert np.abs(made["--sampler euler"] - made["--eta 0"]).max() <= 1  # one method by two names
    distinct = [value for words, value in made.items() if words != "--eta 0"]
    assert all(np.abs(a - b).max() > 1 for i, a in enumerate(distinct) for b in distinct[:i])


BAD = {
    "eta of another": (["--sampler", "heun", "--eta", "0.5"], "eta is a setting of sampler=ddim, not of heun"),
    "tolerance of another": (["--sampler", "ddim", "--tolerance", "0.1"], "tolerance is a setting of sampler=adaptive"),
    "variance of another": (["--sampler", "unipc", "--variance", "beta"], "variance is a setting of sampler=ancestral"),
    "two options": (["--eta", "0.5", "--tolerance", "0.1"], "eta (of ddim) and tolerance (of adaptive) go with different"),
    "eta and variance": (["--eta", "0.5", "--variance", "beta"], "go with different samplers; give one of them"),
    "unknown sampler": (["--sampler", "dpm+2m"], "did you mean 'dpm++2m'"),
    "unknown grid": (["--grid", "trailling"], "did you mean 'trailing'"),
    "eta too large": (["--eta", "1.5"], "less than or equal to 1"),
    "no tolerance": (["--tolerance", "0"], "tolerance"),
    "too many steps": (["--sampler", "heun", "--steps", "26"], "at most 25"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_go_together_exits_2(alphabar, run, tmp_path, case):
    arguments, expected = BAD[case]
    code, _, error = alphabar("sample", run, "--out", tmp_path / "x.png", *arguments)
    assert code == 2
    assert expected in " ".join(error.split())
    assert "Traceback" not in error
    assert not (tmp_path / "x.png").exists()


def test_seeds_are_numbers_and_ranges():
    assert parse_seeds(None, "5,7,20-22") == [5, 7, 20, 21, 22]

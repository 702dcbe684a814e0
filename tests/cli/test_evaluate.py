"""`alphabar extractor` and `alphabar evaluate` as a user runs them."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from alphabar.evaluation.run_evaluation import own_size
from alphabar.generation.images import save_png
from alphabar.tasks.running.evaluate import beside

from ..evaluation.test_classifier import stripes
from .test_interop import SETS


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a set of pictures, its extractor and a run of two steps."""
    from alphabar import cli

    folder = tmp_path_factory.mktemp("evaluate")
    data = stripes(150)
    np.savez(folder / "data.npz", images=data.pictures, labels=data.labels)
    np.save(folder / "some.npy", stripes(40, seed=1).pictures)
    np.save(folder / "learned2.npy", stripes(40, seed=8).pictures)
    for arguments in (
        ["extractor", folder / "data.npz", "--pictures", 50, "--out", folder / "x.safetensors"],
        [
            "train",
            folder / "data.npz",
            "--cond",
            "class",
            "--set",
            "data.held_out=0.3",
            "--out",
            folder / "run",
            "--steps",
            2,
            *SETS,
        ],
    ):
        cli.app(list(map(str, arguments)), standalone_mode=False)
    return folder


@pytest.fixture
def run(alphabar, place, monkeypatch, tmp_path):
    monkeypatch.setenv("ALPHABAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(place)

    def call(*arguments: object) -> str:
        code, said, error = alphabar(*arguments)
        assert code == 0, error
        return " ".join(said.split())

    return call


def test_a_run(run, place, tmp_path):
    said = run(
        "evaluate",
        "run",
        "--extractor",
        "x.safetensors",
        "-n",
        12,
        "--steps",
        3,
        "--by-steps",
        "2,4",
        "--out",
        tmp_path / "out",
    )
    assert "12 pictures on each side" in said
    for name in ("kernel distance x 1000", "Frechet distance", "precision", "coverage", "class accuracy", "copies"):
        assert name in said
    assert "FID" not in said
    assert "kernel x 1000, 2 steps" in said
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    record = found["record"]
    assert record["n"] == 12
    assert record["steps"] == 3
    assert record["seed"] == 0
    assert record["fid"] is False
    for key in (
        "extractor",
        "extractor_hash",
        "resize",
        "rounding",
        "sampler",
        "model",
        "checkpoint",
        "reference",
        "floor",
    ):
        assert record[key]
    assert set(found["by_steps"]) == {"2", "4"}
    assert set(found["class_accuracy"]["by_class"]) <= {"0", "1", "2"}
    assert 0 < found["memorisation"]["samples"] < 2
    assert abs(found["real"]["kernel"]) < 5 * found["real"]["kernel_error"]
    page = (tmp_path / "out" / "report.html").read_text()
    for title in (
        "Samples",
        "Real pictures",
        "Quality by steps",
        "Nearest neighbours",
        "Loss",
        "Samples over training",
        "Settings",
        "Record",
    ):
        assert f"<h2>{title}</h2>" in page
    assert not re.search(r"https?:|<script|<link|url\(", page)  # it asks nothing of anybody
    assert page.count("data:image/png;base64,") == 6


def test_a_run_whose_data_have_gone_says_that_copies_are_not_looked_for(run, place, tmp_path):
    run("train", "learned2.npy", "--out", tmp_path / "run", "--steps", 1, *SETS)
    (place / "learned2.npy").unlink()
    said = run(
        "evaluate", tmp_path / "run", "--data", "data.npz", "--extractor", "x.safetensors", "-n", 8, "--steps", 2
    )
    assert "note: copies are not looked for" in said
    assert "distance to training" not in said


def test_what_a_reader_of_the_numbers_must_know_is_told(run, place, tmp_path):
    """Unreadable files, colour that a grey model does not have, fewer pictures than asked for."""
    (tmp_path / "a").mkdir()
    for i, picture in enumerate(stripes(40, seed=3).pictures):
        save_png(tmp_path / "a" / f"{i}.png", picture.repeat(3, axis=2))
    (tmp_path / "a" / "broken.png").write_bytes(b"no picture")
    told = ["--extractor", "x.safetensors", "--out", tmp_path / "out"]
    said = run("evaluate", "run", "--data", tmp_path / "a", *told)
    assert "1 unreadable files" in said
    assert "40 pictures of" in said
    assert "are in colour and were read in grey" in said
    assert "note: 40 pictures on each side, as there are no more; -n asks for 1000" in said
    assert "read in grey" in json.loads((tmp_path / "out" / "evaluation.json").read_text())["record"]["note"]
    few = run("evaluate", "some.npy", "--data", "data.npz", "-n", 20, *told)
    assert "note:" not in few


def test_it_is_the_same_again_and_goes_into_the_run(run, place):
    def asked() -> dict:
        run("evaluate", "run", "--extractor", "x.safetensors", "-n", 9, "--steps", 2)
        return json.loads((place / "run" / "evaluation.json").read_text())

    assert asked() == asked()
    assert (place / "run" / "report.html").exists()


def test_pictures_that_are_there(run, place):
    said = run("evaluate", "some.npy", "--data", "data.npz", "--extractor", "x.safetensors")
    assert "40 pictures on each side" in said
    assert "copies" not in said
    assert (place / "some-evaluation" / "report.html").exists()
    np.save(place / "learned.npy", stripes(60, seed=9).pictures)
    words = ("evaluate", "some.npy", "--extractor", "x.safetensors", "-n", 10)
    said = run(*words, "--data", "data.npz", "--training", "learned.npy")
    assert "10 pictures on each side" in said
    assert "copies" in said
    assert "copies" not in run(*words, "--data", "data.npz", "--training", "data.npz")  # no real picture was held out
    said = run("sample", "run", "-n", 12, "--steps", 2, "--out", "made")
    said = run("evaluate", "made", "--data", "data.npz", "--extractor", "x.safetensors")
    assert "12 pictures on each side" in said  # its grid is not one of them
    assert "class accuracy" in said
    save_png(place / "strange" / "a.png", stripes(1).pictures[0])  # a folder of pictures that alphabar did not make
    for i, picture in enumerate(stripes(20, seed=3).pictures):
        save_png(place / "strange" / f"{i}.png", picture)
    assert "21 pictures on each side" in run(
        "evaluate", "strange", "--data", "data.npz", "--extractor", "x.safetensors"
    )
    assert json.loads((place / "made-evaluation" / "evaluation.json").read_text())["record"]["steps"] == 2


def test_pictures_with_classes_of_their_own_are_judged_by_them_and_kept_in_their_size(run, place):
    fresh = stripes(40, seed=4)
    np.savez(place / "labelled.npz", images=fresh.pictures, labels=fresh.labels)
    words = ("--data", "data.npz", "--extractor", "x.safetensors")
    assert "class accuracy" in run("evaluate", "labelled.npz", *words)
    for i, (picture, label) in enumerate(zip(fresh.pictures, fresh.labels, strict=True)):
        save_png(place / "by-class" / str(label) / f"{i}.png", picture)
    assert "class accuracy" in run("evaluate", "by-class", *words)
    assert own_size(place / "by-class") == [8, 8]
    save_png(place / "by-class" / "0" / "large.png", np.zeros((100, 90, 1), np.uint8))
    assert own_size(place / "by-class") is None


def test_real_pictures_are_at_the_floor_and_noise_is_not(run, place):
    np.save(place / "real.npy", stripes(40, seed=7).pictures)
    noise = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), dtype=np.uint8)
    np.save(place / "noise.npy", noise)
    found = {}
    for name in ("real", "noise"):
        run("evaluate", f"{name}.npy", "--data", "data.npz", "--extractor", "x.safetensors")
        found[name] = json.loads((place / f"{name}-evaluation" / "evaluation.json").read_text())
    assert found["real"]["samples"]["frechet"] < 3 * found["real"]["real"]["frechet"]
    assert found["noise"]["samples"]["frechet"] > 10 * found["noise"]["real"]["frechet"]
    assert found["noise"]["samples"]["kernel"] > 5 * found["noise"]["samples"]["kernel_error"]


BAD = {
    "no extractor": (["run"], "name what sees the pictures: --extractor FILE"),
    "nowhere": (["nowhere", "--data", "data.npz", "--extractor", "x.safetensors"], "nowhere does not exist"),
    "no data": (["some.npy", "--extractor", "x.safetensors"], "name the real pictures to compare with: --data"),
    "steps of pictures": (
        ["some.npy", "--data", "data.npz", "--steps", 3, "--extractor", "x.safetensors"],
        "--steps is for a run",
    ),
    "training of a run": (
        ["run", "--training", "data.npz", "--extractor", "x.safetensors"],
        "a run knows what it was trained on",
    ),
    "no numbers": (["run", "--by-steps", "2,x", "--extractor", "x.safetensors"], "--by-steps takes numbers of steps"),
    "more steps than there are": (["run", "--by-steps", "2,5000", "--extractor", "x.safetensors"], "5000"),
    "a file in the way": (["run", "--extractor", "x.safetensors", "--out", "some.npy/x"], "got the file some.npy"),
    "too few": (["few.npy", "--data", "data.npz", "--extractor", "x.safetensors"], "few.npy holds 4 pictures, too few"),
    "extractor of another size": (
        ["other.npy", "--data", "data.npz", "--extractor", "x.safetensors"],
        "trained on 8x8 pictures",
    ),
    "an extractor that is none": (["run", "--extractor", "data.npz"], "no TorchScript or torch.export file"),
    "a file for a folder": (["run", "--extractor", "x.safetensors", "--out", "some.npy"], "--out takes a folder"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_done_exits_2_and_says_why(case, run, alphabar, place):
    arguments, expected = BAD[case]
    np.save(place / "other.npy", stripes(40, 12).pictures)
    np.save(place / "few.npy", stripes(4).pictures)
    code, _, error = alphabar("evaluate", *arguments)
    assert code == 2
    assert expected in " ".join(error.split())


def test_what_no_extractor_can_be_made_of(alphabar, place, tmp_path):
    code, _, error = alphabar("extractor", place / "some.npy", "--out", tmp_path / "x.safetensors")
    assert code == 2
    assert "has no classes" in error
    code, _, error = alphabar("extractor", place / "data.npz", "--out", tmp_path / "x.pt")
    assert code == 2
    assert "--out takes the path of a .safetensors file" in error


def test_a_folder_and_a_file_of_one_name_have_reports_of_their_own(tmp_path):
    (tmp_path / "some").mkdir()
    assert beside(tmp_path / "some").name == "some-evaluation"
    assert beside(tmp_path / "some.npy").name == "some.npy-evaluation"
    assert beside(tmp_path / "other.npy").name == "other-evaluation"

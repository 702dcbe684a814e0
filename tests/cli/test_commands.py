"""The command line as a user runs it: in this process where it can be, as a process where signals and exits matter."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alphabar.runs.checkpoint import is_whole
from alphabar.runs.folder import RunFolder

TINY = [
    "network.channels=[8,16]",
    "network.blocks=1",
    "network.attention=[false,true]",
    "network.groups=4",
    "schedule.steps=25",
    "train.batch_size=8",
    "train.preview_pictures=2",
    "train.preview_steps=2",
    "train.validation_pictures=8",
    "train.report_every=2",
]
SETS = [word for setting in TINY for word in ("--set", setting)]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A finished tiny run on the digits, by class."""
    out = tmp_path_factory.mktemp("cli") / "run"
    subprocess.run(
        [sys.executable, "-m", "alphabar", "train", "digits", "--out", str(out), "--steps", "4", *SETS], check=True
    )
    return out


def folder_of_pictures(folder: Path, n: int = 12) -> Path:
    g = np.random.default_rng(0)
    for i in range(n):
        path = folder / ("cat" if i % 2 else "dog") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(g.integers(0, 255, (10 + i, 12, 3), dtype=np.uint8)).save(path)
    return folder


def test_train_says_what_it_found_what_it_does_and_what_next(alphabar, tmp_path):
    folder = folder_of_pictures(tmp_path / "pictures")
    (folder / "dog" / "broken.jpg").write_bytes(b"not a picture")
    (folder / "notes.txt").write_text("hello")
    out = tmp_path / "my run"
    code, said, _ = alphabar(
        "train", folder, "--out", out, "--steps", 2, "--class-from", "folder", "--set", "data.size=8", *SETS
    )
    assert code == 0
    for expected in (
        "12 pictures, 10x12 to 21x12",
        "12 RGB",
        "each becomes 8x8, 3 channels",
        "classes 2: cat (6), dog (6)",
        "skipped dog/broken.jpg: cannot be read",
    ):
        assert expected in said
    assert re.search(r"M parameters; cpu, float32, \d+ threads", said)
    assert "to step 2 of 8 pictures" in said
    assert "alphabar sample '" in said  # a path with a space is quoted
    assert RunFolder.open(out).config.classes == ["cat", "dog"]
    assert (
        RunFolder.open(out).read("run.json")["command"].startswith(f"alphabar train {folder} --out '{out}' --steps 2")
    )


def test_dry_run_writes_nothing(alphabar, tmp_path):
    code, said, _ = alphabar("train", "digits", "--out", tmp_path / "run", "--dry-run", "--minutes", 0.1, *SETS)
    assert code == 0
    assert "plan" in said
    assert "dry run" in said
    assert not (tmp_path / "run").exists()


BAD = {
    "no data": (["train", "--out", "OUT"], "what should it train on"),
    "missing folder": (["train", "nowhere", "--out", "OUT"], "does not exist"),
    "empty folder": (["train", "EMPTY", "--out", "OUT"], "no pictures in"),
    "no readable picture": (["train", "BROKEN", "--out", "OUT"], "none of the 1 pictures"),
    "strict": (["train", "BROKEN", "--out", "OUT", "--strict"], "leave out --strict"),
    "unknown preset": (["train", "digits", "--out", "OUT", "--preset", "smal"], "did you mean 'small'"),
    "unknown schedule": (
        ["train", "digits", "--out", "OUT", "--set", "schedule.kind=cosinus"],
        "did you mean 'cosine'",
    ),
    "unknown key": (["train", "digits", "--out", "OUT", "--set", "train.stps=3"], "did you mean 'train.steps'"),
    "not a pair": (["train", "digits", "--out", "OUT", "--set", "train.steps"], "takes key=value"),
    "bad value": (
        ["train", "digits", "--out", "OUT", "--set", "train.batch_size=-1"],
        "train.batch_size: input should be greater than or equal to 1, got -1",
    ),
    "betas out of range": (
        ["train", "digits", "--out", "OUT", "--set", "schedule.kind=custom", "--set", "schedule.betas=[0.1,1.5]"],
        "must lie in (0, 1)",
    ),
    "beta of 1 before the end": (
        ["train", "digits", "--out", "OUT", "--set", "schedule.kind=custom", "--set", "schedule.betas=[1,0.5]"],
        "beta_1 = 1",
    ),
    "too few steps for linear": (
        ["train", "digits", "--out", "OUT", "--set", "schedule.steps=20"],
        "more than 20 steps",
    ),
    "eps at zero SNR": (
        ["train", "digits", "--out", "OUT", "--set", "schedule.zero_terminal_snr=true"],
        "diffusion.prediction=v",
    ),
    "too small": (["train", "digits", "--out", "OUT", "--set", "data.size=1"], "needs at least 2x2"),
    "missing configuration": (["train", "digits", "--out", "OUT", "--config", "nowhere.yaml"], "no configuration file"),
    "both lengths": (["train", "digits", "--out", "OUT", "--steps", "3", "--minutes", "3"], "give one"),
    "resume nothing": (["train", "digits", "--out", "OUT", "--resume"], "does not exist"),
    "sample nothing": (["sample", "OUT", "--out", "x.png"], "does not exist"),
    "info nothing": (["info", "OUT"], "does not exist"),
    "existing run": (["train", "digits", "--out", "RUN"], "exists already"),
    "unknown class": (["sample", "RUN", "--out", "x.png", "--class", "seven"], "does not know the class 'seven'"),
    "more steps than T": (["sample", "RUN", "--out", "x.png", "--steps", "26"], "at most 25"),
    "unknown variance": (["sample", "RUN", "--out", "x.png", "--variance", "bta"], "did you mean 'beta'"),
    "variance not learned": (
        ["sample", "RUN", "--out", "x.png", "--variance", "learned"],
        "did not learn its variance",
    ),
    "unknown checkpoint": (["sample", "RUN", "--out", "x.png", "--checkpoint", "99"], "there are: step-4"),
    "bad seeds": (["sample", "RUN", "--out", "x.png", "--seeds", "a-b"], "like 0-63"),
    "bad device": (["sample", "RUN", "--out", "x.png", "--device", "gpu9"], "alphabar doctor"),
    "foreign picture": (["info", "PICTURE"], "not a PNG made by alphabar"),
    "foreign folder": (["sample", "EMPTY", "--out", "x.png"], "not a run folder"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_exits_2_with_a_line_that_says_what_to_do(alphabar, run_folder, tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "x.png").write_bytes(b"\x89PNG nothing more")
    Image.new("L", (4, 4)).save(tmp_path / "foreign.png")
    places = {
        "OUT": tmp_path / "out",
        "RUN": run_folder,
        "EMPTY": tmp_path / "empty",
        "BROKEN": tmp_path / "broken",
        "PICTURE": tmp_path / "foreign.png",
    }
    arguments, expected = BAD[case]
    code, _, error = alphabar(*[places.get(word, word) for word in arguments])
    assert code == 2
    assert expected in error
    assert "Traceback" not in error
    assert len(error.strip().splitlines()) <= 2
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "x.png").exists()


def test_sample_writes_arrays_grids_folders_and_animations(alphabar, run_folder, tmp_path):
    for name in ("x.npy", "x.npz", "x.png", "x.webp", "x.gif", "folder"):
        code, said, error = alphabar("sample", run_folder, "-n", 5, "--steps", 3, "--out", tmp_path / name)
        assert code == 0, error
        assert "5 pictures in" in said
        assert "ema weights of step-4" in said
    array = np.load(tmp_path / "x.npy")
    assert array.shape == (5, 8, 8, 1)
    assert array.dtype == np.uint8
    assert np.array_equal(np.load(tmp_path / "x.npz")["images"], array)
    pictures = sorted(p for p in (tmp_path / "folder").iterdir() if p.name != "grid.png")
    assert [np.asarray(Image.open(p)).tolist() for p in pictures] == array[..., 0].tolist()
    assert Image.open(tmp_path / "x.webp").n_frames >= 3
    assert Image.open(tmp_path / "x.gif").n_frames >= 3
    assert (tmp_path / "folder" / "grid.png").exists()


def test_a_picture_tells_how_to_make_it_again(alphabar, run_folder, tmp_path):
    alphabar(
        "sample",
        run_folder,
        "-n",
        3,
        "--steps",
        5,
        "--seed",
        9,
        "--class",
        "7",
        "--variance",
        "beta",
        "--out",
        tmp_path / "a",
    )
    picture = tmp_path / "a" / "000002-7.png"
    code, said, _ = alphabar("info", picture)
    assert code == 0
    told = dict(line.split(maxsplit=1) for line in said.splitlines())
    assert told["class"] == "7"
    assert told["steps"] == "5"
    assert told["variance"] == "beta"
    assert told["weights"] == "ema"
    assert len(told["model"]) == 12
    alphabar(
        "sample",
        run_folder,
        "--seeds",
        told["seed"],
        "--steps",
        5,
        "--class",
        "7",
        "--variance",
        "beta",
        "--out",
        tmp_path / "again.npy",
    )
    difference = np.load(tmp_path / "again.npy")[0, ..., 0].astype(int) - np.asarray(Image.open(picture)).astype(int)
    assert np.abs(difference).max() <= 1


def test_a_sample_does_not_depend_on_its_batch(alphabar, run_folder, tmp_path):
    """Law 6: within one 8-bit level, in batches of 1, 3 and 7, and among other seeds."""
    arrays = []
    for i, batch in enumerate((1, 3, 7)):
        alphabar(
            "sample",
            run_folder,
            "--seeds",
            "0-6",
            "--steps",
            6,
            "--batch",
            batch,
            "--class",
            "3",
            "--out",
            tmp_path / f"{i}.npy",
        )
        arrays.append(np.load(tmp_path / f"{i}.npy").astype(int))
    alphabar("sample", run_folder, "--seeds", "4", "--steps", 6, "--class", "3", "--out", tmp_path / "alone.npy")
    assert max(np.abs(a - arrays[0]).max() for a in arrays) <= 1
    assert np.abs(np.load(tmp_path / "alone.npy")[0].astype(int) - arrays[0][4]).max() <= 1
    assert len({a.tobytes() for a in arrays[0]}) == 7


def test_raw_weights_and_older_checkpoints_can_be_sampled(alphabar, run_folder, tmp_path):
    _, said, _ = alphabar(
        "sample",
        run_folder,
        "-n",
        1,
        "--steps",
        2,
        "--raw-weights",
        "--checkpoint",
        "step-4",
        "--out",
        tmp_path / "x.png",
    )
    assert "raw weights of step-4" in said
    code, _, _ = alphabar(
        "sample", run_folder / "checkpoints" / "step-4", "-n", 1, "--steps", 2, "--out", tmp_path / "y.png"
    )
    assert code == 0


def test_info_describes_runs_and_checkpoints(alphabar, run_folder):
    _, said, _ = alphabar("info", run_folder)
    assert '"step-4"' in said
    _, said, _ = alphabar("info", run_folder / "checkpoints" / "step-4")
    assert re.search(r"whole\s+true", said)
    assert "digits" in said


def test_settings_lists_every_key_with_its_meaning(alphabar):
    _, said, _ = alphabar("settings")
    assert "presets (--preset): auto, tiny, quick, small, ddpm, ddpm-cifar10" in said
    assert "train.checkpoint_every = 1000" in said
    _, said, _ = alphabar("settings", "schedule.")
    assert all(line.startswith(("schedule.", "    ")) for line in said.splitlines())


def test_doctor_prints_versions_devices_and_precisions(alphabar):
    code, said, _ = alphabar("doctor")
    assert code == 0
    for word in ("alphabar", "torch", "threads", "float32", "bfloat16", "tensorboard", "fashion-mnist"):
        assert word in said


def interrupted(out: Path, number: int) -> tuple[str, int]:
    """Start a long run in a process of its own, send the signal in the middle; returns what it said and the step that it saved."""
    command = [sys.executable, "-m", "alphabar", "train", "digits", "--steps", "3000", *SETS, "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"})
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step 6/"):
            process.send_signal(number)
            break
    said = process.stdout.read()
    assert process.wait(60) == 0
    (checkpoint,) = RunFolder.open(out).checkpoints()
    assert is_whole(checkpoint)
    return said, int(checkpoint.name.removeprefix("step-"))


def test_a_termination_saves_like_an_interrupt(tmp_path):
    said, step = interrupted(tmp_path / "run", signal.SIGTERM)
    assert "--resume" in said
    assert 6 <= step < 3000


def test_an_interrupted_and_resumed_run_ends_with_the_very_bytes_of_one_that_was_not(alphabar, tmp_path):
    """Law 4 over processes, by Ctrl-C."""
    said, step = interrupted(tmp_path / "cut", signal.SIGINT)
    assert f"stopped at step {step}, saved; go on with: alphabar train digits --out {tmp_path / 'cut'} --resume" in said
    alphabar("train", "--out", tmp_path / "cut", "--resume", "--steps", step + 3)
    alphabar("train", "digits", "--steps", step + 3, *SETS, "--out", tmp_path / "straight")
    names = [tmp_path / name / "checkpoints" / f"step-{step + 3}" / "checkpoint.json" for name in ("cut", "straight")]
    assert len({json.dumps(json.loads(path.read_text())["files"]) for path in names}) == 1


def test_an_interrupted_sampling_ends_and_leaves_nothing(run_folder, tmp_path):
    """By Ctrl-C that arrives in the middle of the pictures."""
    code = f"""
import os, signal, sys
from alphabar import cli
from alphabar.generation.output import ArrayWriter
add, ready = ArrayWriter.add, []
def interrupting(self, samples):
    add(self, samples)
    ready.append(1)
    if len(ready) == 3:
        os.kill(os.getpid(), signal.SIGINT)
ArrayWriter.add = interrupting
sys.argv = ["alphabar", "sample", {str(run_folder)!r}, "-n", "100000", "--batch", "1", "--steps", "2", "--out", {str(tmp_path / "x.npy")!r}]
cli.main()
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 130, result.stderr
    assert result.stdout.splitlines()[-2:] == ["stopping ...", "stopped; nothing was written"]
    assert list(tmp_path.iterdir()) == []


def test_two_processes_do_not_train_one_run_and_a_crash_leaves_it_free(alphabar, tmp_path):
    out = tmp_path / "run"
    sets = [*SETS, "--set", "train.checkpoint_every=4", "--set", "train.keep_checkpoints=1000"]
    command = [sys.executable, "-m", "alphabar", "train", "digits", "--steps", "100000", *sets, "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"})
    try:
        assert process.stdout is not None
        assert any(line.startswith("step 6/") for line in process.stdout)
        code, _, error = alphabar("train", "--out", out, "--resume")
        assert code == 2
        assert error.startswith(f"alphabar: {out} is being trained by another process; wait for it to end")
        assert len(error.splitlines()) == 1
        assert alphabar("sample", out, "-n", 1, "--steps", 2, "--checkpoint", "4", "--out", tmp_path / "x.png")[0] == 0
        code, said, _ = alphabar("info", out)
        assert code == 0
        assert ".lock" not in said
    finally:
        process.kill()
        process.wait(60)
    newest = int(RunFolder.open(out).checkpoints()[-1].name.removeprefix("step-"))
    code, _, error = alphabar("train", "--out", out, "--resume", "--steps", newest + 1)
    assert code == 0, error


def test_memory_stays_flat_in_the_number_of_samples(run_folder, tmp_path):
    """Peak memory of 3,000 samples exceeds that of 200 by less than what 2,800 pictures of float noise and states would take twice."""
    peaks = []
    for n in (200, 3000):
        code = f"""
import resource, sys
from alphabar import cli
sys.argv = ["alphabar", "sample", {str(run_folder)!r}, "-n", "{n}", "--steps", "2", "--out", {str(tmp_path / f"{n}.npy")!r}]
try:
    cli.main()
except SystemExit as end:
    assert not end.code
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        peaks.append(int(result.stdout.split()[-1]))
    assert (
        peaks[1] - peaks[0] < 20_000
    )  # kilobytes; one float32 activation of the whole 2,800 alone would be 5,700 a channel block
    assert len(np.load(tmp_path / "3000.npy")) == 3000


def test_version_is_printed(alphabar):
    assert alphabar("--version")[1].startswith("alphabar 0.1.0")


def test_the_command_line_takes_a_precision(alphabar, tmp_path):
    from alphabar.training.session import train

    list(train("digits", tmp_path / "run", preset="tiny", steps=1, settings={"train.batch_size": 4}))
    for precision in ("bfloat16", "float32"):
        code, said, error = alphabar("sample", tmp_path / "run", "-n", 2, "--steps", 2, "--precision", precision, "--out", tmp_path / f"{precision}.npy")  # fmt: skip
        assert code == 0, error
        assert "2 pictures in" in said
    code, _, error = alphabar("sample", tmp_path / "run", "-n", 2, "--precision", "half", "--out", tmp_path / "x.npy")
    assert code == 2
    assert "precision" in error
    code, said, error = alphabar(
        "train", "digits", "--preset", "tiny", "--steps", 5, "--precision", "bfloat16", "--dry-run", "--out", tmp_path / "r"
    )  # fmt: skip
    assert "bfloat16" in said

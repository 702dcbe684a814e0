"""What is pinned: the data, the trainings and the samplings, by the public surface of alphabar alone."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import alphabar
from alphabar import cli

DATA = Path(__file__).with_name("data")
RUNS = ("digits-run", "shapes-run")
STEPS, MORE = 40, 5  # of the fixtures, and of their continuation

COLOURS = {"red": (220, 30, 30), "green": (30, 170, 60), "blue": (40, 60, 210), "yellow": (240, 210, 40)}
SHAPES = ("circle", "cross", "square")

PLAIN = {"train.precision": "float32", "train.kernels": "native", "train.threads": 1, "train.device": "cpu"}
NARROW = {
    "network.channels": [4, 8],
    "network.blocks": 1,
    "network.attention": [False, True],
    "network.groups": 4,
    "network.token_dim": 8,
    "train.batch_size": 16,
    "train.warm_up": 5,
    "train.validation_pictures": 16,
    "train.report_every": 20,
    "train.preview_pictures": 2,
    "train.preview_steps": 2,
    "train.preview_every": 1000,
    "train.keep_checkpoints": 1,
}
NARROW_TEXT = {"conditions.text.width": 8, "conditions.text.layers": 1, "conditions.text.length": 16}
TWO_CONDITIONS = {"data.class_from": "folder", "data.conditions": ["class", "text"], **NARROW_TEXT}
QUIET = {
    "train.validation_pictures": 0,
    "train.preview_pictures": 1,
    "train.preview_steps": 1,
    "train.preview_every": 1000,
}


def draw(shape: str, colour: tuple[int, int, int], dx: int, dy: int) -> np.ndarray:
    """A shape in a colour on white, (8, 8, 3) uint8, moved by dx, dy pixels; integers only, so that it never varies."""
    y, x = np.mgrid[:8, :8] * 2 - 7
    x, y = x - 2 * dx, y - 2 * dy
    radius = x**2 + y**2
    inside = {
        "circle": (radius <= 49) & (radius > 10),
        "cross": np.minimum(abs(x), abs(y)) <= 1,
        "square": np.maximum(abs(x), abs(y)) <= 3,
    }[shape]
    return np.where(inside[..., None], np.uint8(colour), np.uint8(255)).astype(np.uint8)


def write_shapes(folder: Path) -> Path:
    """48 pictures in three folders by shape, with captions and colours in metadata.csv."""
    rows = []
    for k in range(48):
        shape, name = SHAPES[k % 3], list(COLOURS)[k // 3 % 4]
        path = folder / shape / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw(shape, COLOURS[name], k // 12 % 2, k // 24 % 2)).save(path)
        rows.append((f"{shape}/{k}.png", f"a {name} {shape}", name))
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("file_name", "text", "colour"), *rows])
    return folder


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """A block with the folder as the current one, on one thread."""
    before, threads = Path.cwd(), torch.get_num_threads()
    os.chdir(folder)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        os.chdir(before)
        torch.set_num_threads(threads)


def run_command(*words: object) -> None:
    """`alphabar WORDS` inside this process. Raises SystemExit with its code if it fails."""
    before, sys.argv = sys.argv, ["alphabar", *map(str, words)]
    try:
        cli.app(sys.argv[1:], standalone_mode=False)
    finally:
        sys.argv = before


def options(settings: dict[str, Any]) -> list[str]:
    """Settings as `--set` options."""
    return [word for key, value in settings.items() for word in ("--set", f"{key}={as_yaml(value)}")]


def as_yaml(value: Any) -> str:
    """A setting as the command line takes it."""
    return str(value).replace("'", "") if isinstance(value, list) else str(value)


# --- fixtures ---


def train_fixtures(place: Path) -> None:
    """The two runs and the folder `shapes`, made in `place`."""
    write_shapes(place / "shapes")
    plain, common = PLAIN | NARROW, ("--preset", "tiny", "--steps", STEPS, "--out")
    with inside(place):
        run_command("train", "digits", *common, RUNS[0], *options(plain))
        run_command("train", "shapes", *common, RUNS[1], *options(plain | TWO_CONDITIONS | {"data.held_out": 0.4}))


def continued_losses(run: Path, source: str) -> list[float]:
    """The losses of the steps that go on from a fixture; call it where `source` lies."""
    session = alphabar.prepare(source, run, resume=True, steps=STEPS + MORE)
    reports = list(session.run())
    assert [report.step for report in reports] == list(range(STEPS + 1, STEPS + MORE + 1))
    return [report.loss for report in reports]


# --- pictures ---

SEEDS = [3, 1, 4, 15, 92, 65, 35, 89]
SAMPLERS: dict[str, dict[str, Any]] = {
    "ancestral": {"sampler": "ancestral", "steps": 20},
    "ddim": {"sampler": "ddim", "steps": 10},
    "unipc": {"sampler": "unipc", "steps": 6},
}
LABELS = ["circle", "cross", None, "square"] * 2
PROMPTS = ["a red circle", "a blue cross", "a green square", None, "", "yellow", "a red square", "a blue circle"]
REQUESTS: dict[str, dict[str, dict[str, Any]]] = {
    RUNS[0]: {
        "ancestral": {"label": list("01234567")},
        "ddim": {"label": "7", "guidance": 2.0},
        "unipc": {},
    },
    RUNS[1]: {
        "ancestral": {"label": LABELS, "prompt": PROMPTS},
        "ddim": {"label": LABELS, "prompt": PROMPTS, "guidance": 2.0},
        "unipc": {"prompt": "a green cross"},
    },
}


def sampled(run: str, sampler: str) -> np.ndarray:
    """The pinned pictures (8, 8, 8, C) uint8 of a fixture by a sampler."""
    pipeline = alphabar.load(DATA / run).with_settings(**SAMPLERS[sampler])
    return pipeline.sample(seeds=SEEDS, **REQUESTS[run][sampler]).pictures


# --- losses ---

SHORT = {"train.batch_size": 8, **PLAIN, **QUIET}
CIFAR10 = {
    "network.channels": [16, 32, 32, 32],
    "network.groups": 8,
    "data.size": 16,
    "train.batch_size": 8,
    "train.warm_up": 5,
    "train.learning_rate": 2e-3,
}
TRAININGS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "tiny": ("digits", "tiny", {}),
    "quick": ("digits", "quick", {"data.size": 16}),
    "ddpm": ("digits", "ddpm", {"data.size": 16, "data.class_from": "none"}),
    "ddpm-cifar10": ("shapes", "ddpm-cifar10", {**CIFAR10, "data.conditions": []}),
    "two conditions": ("shapes", "tiny", {**TWO_CONDITIONS, "conditions.class.dropout": 0.3, "train.drop_all": 0.3}),
    "flip": ("shapes", "tiny", {"data.class_from": "folder", "data.conditions": ["class"], "data.flip": True}),
    "importance": ("digits", "tiny", {"loss.times": "importance", "schedule.kind": "cosine", "schedule.steps": 4}),
}
"""Name -> source, preset, settings; each of 20 steps. Each of the 4 times of importance soon has enough past losses."""

DRAWN = 300
STATISTICS: dict[str, dict[str, Any]] = {
    "uniform": {"loss.times": "uniform"},
    "stratified": {"loss.times": "stratified"},
    "cosine": {"loss.times": "cosine"},
}
"""Trainings of one step of DRAWN pictures, for the distributions of t and of the noise."""


def trained(place: Path, name: str) -> list[Any]:
    """The reports of one of TRAININGS; `place` holds the folder `shapes`."""
    source, preset, settings = TRAININGS[name]
    with inside(place):
        session = alphabar.prepare(source, f"out {name}", preset=preset, steps=20, settings=SHORT | settings)
        return list(session.run())


def drawn(place: Path, name: str) -> dict[str, float]:
    """Mean and variance of DRAWN times, and of the squared errors of a fresh network, by one of STATISTICS."""
    settings = SHORT | NARROW | QUIET | STATISTICS[name] | {"train.batch_size": DRAWN}
    with inside(place):
        (report,) = alphabar.prepare("digits", f"drawn {name}", preset="tiny", steps=1, settings=settings).run()
    times, errors = report.times.double(), report.squared_errors.double()
    return {
        "mean of t": float(times.mean()),
        "variance of t": float(times.var()),
        "mean of the error": float(errors.mean()),
        "variance of the error": float(errors.var()),
    }

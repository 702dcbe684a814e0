"""The Python of the README and of the pages that speak of runs and data, as it stands, in a folder with small stand-ins for these. Only
numbers that cost time are made smaller. The other snippets need nothing and are run by test_docs.py."""

from __future__ import annotations

import gzip
import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import alphabar
from alphabar.data import builtin_sets
from alphabar.data.pictures import PictureSet
from alphabar.evaluation.classifier import save_classifier, train_classifier
from alphabar.interop.diffusers_export import Export, write_export

from .registering import registrations_forgotten
from .test_docs import DOCS, OF_RUNS, ROOT, code_blocks

TINY = {
    "network.channels": [8, 16], "network.blocks": 1, "network.attention": [False, True], "network.groups": 4, "network.head_channels": 4, "train.batch_size": 8,
    "schedule.steps": 100, "schedule.kind": "cosine", "train.preview_pictures": 2, "train.preview_steps": 2, "train.validation_pictures": 4,
}  # fmt: skip
SMALLER = {
    "minutes=30, settings={": "steps=1, settings=TINY | {", "minutes=30": "steps=1, settings=TINY", ".yaml\"": ".yaml\", steps=1, settings=TINY",
    "sample(64)": "sample(2)", "sample(16)": "sample(2)", "range(2000)": "range(3)", ", 2000, 0, None)": ", 20, 0, None)", "n=32": "n=2", "ode_steps=50": "ode_steps=3",
    "resamplings=5, jump=5": "resamplings=1, jump=5", "with_settings(steps=50)": "with_settings(steps=6)", "num_inference_steps=250": "num_inference_steps=3",
    "[:48]": "[:2]", "[:64]": "[:2]", "reshape(64,": "reshape(2,", "sample(8,": "sample(2,",
    "set_timesteps(250)": "set_timesteps(3)", 'load("runs/fashion")\n': 'load("runs/fashion").with_settings(steps=6)\n',
}  # fmt: skip


def write_idx(path: Path, array: np.ndarray) -> None:
    """An idx file as Fashion-MNIST has them."""
    head = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(head + array.tobytes(), 1))


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """fashion-mnist/, my-pictures/, runs/fashion, runs/fashion-unconditional, fashion.safetensors, two folders of diffusers."""
    folder, g = tmp_path_factory.mktemp("world"), np.random.default_rng(0)
    (folder / "fashion-mnist").mkdir()
    (folder / "my-pictures").mkdir()
    for part, n in (("train", 120), ("t10k", 60)):
        write_idx(folder / "fashion-mnist" / f"{part}-images-idx3-ubyte.gz", g.integers(0, 256, (n, 28, 28), np.uint8))
        write_idx(folder / "fashion-mnist" / f"{part}-labels-idx1-ubyte.gz", (np.arange(n) % 10).astype(np.uint8))
    for i in range(20):
        Image.fromarray(g.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / "my-pictures" / f"{i}.png")
    patch = pytest.MonkeyPatch()
    patch.setattr(builtin_sets, "FASHION_MNIST_FOLDER", folder / "fashion-mnist")
    for name, settings in (("fashion", {}), ("fashion-unconditional", {"data.class_from": "none"})):
        list(alphabar.train("fashion-mnist", folder / "runs" / name, steps=1, settings=TINY | settings))
    list(alphabar.train(folder / "my-pictures", folder / "runs" / "colour", steps=1, settings=TINY))
    pictures, labels, names = builtin_sets.load_fashion_mnist()
    save_classifier(
        train_classifier(PictureSet(pictures, labels, names), "fashion-mnist", 40), folder / "fashion.safetensors"
    )
    patch.undo()
    write_export(Export.open(folder / "runs" / "fashion-unconditional"), folder / "flowers-diffusers")
    write_export(Export.open(folder / "runs" / "colour"), folder / "ddpm-cifar10-32")
    return folder


def of_conditions(folder: Path) -> None:
    """A few pictures with captions, with maps, and in pairs; a run by text and image, and one by angle."""
    g = np.random.default_rng(1)
    draw = lambda *size: Image.fromarray(g.integers(0, 256, (*size, 3), np.uint8))  # noqa: E731
    for name in ("shapes-en", "noto", "noto-test"):
        (folder / "data" / name).mkdir(parents=True)
        for i in range(20):
            draw(16, 16).save(folder / "data" / name / f"{i}.png")
            (folder / "data" / name / f"{i}.txt").write_text(("red apple", "a red circle left of a blue cross")[i % 2])
    for name, other in (
        ("layers", "maps"),
        ("layers-test", "maps"),
        ("pairs", "conditioning"),
        ("pairs-test", "conditioning"),
    ):
        (folder / "data" / name / "images").mkdir(parents=True)
        (folder / "data" / name / other).mkdir()
        for i in range(20):
            draw(16, 16).save(folder / "data" / name / "images" / f"{i}.png")
            paired = draw(16, 16) if other == "conditioning" else Image.fromarray(g.integers(0, 4, (16, 16), np.uint8))
            paired.save(folder / "data" / name / other / f"{i}.png")
    (folder / "bars").mkdir()
    rows = ["file_name,angle"]
    for i in range(20):
        draw(16, 16).save(folder / "bars" / f"{i}.png")
        rows.append(f"{i}.png,{9 * i}")
    (folder / "bars" / "metadata.csv").write_text("\n".join(rows))
    Image.new("L", (16, 16), 128).save(folder / "grey.png")
    shutil.rmtree(folder / "runs" / "fashion")  # which the page makes
    both = {"data.conditions": ["text", "image"], "conditions.image.task": "colorize"}
    list(alphabar.train(folder / "data" / "noto", folder / "runs" / "noto", steps=1, settings=TINY | both))
    list(
        alphabar.train(
            folder / "bars", folder / "runs" / "bars", steps=1, settings=TINY | {"data.conditions": ["angle"]}
        )
    )


@pytest.mark.parametrize("name", ["README", *OF_RUNS])
def test_the_python_of_the_page_runs(name, world, tmp_path, monkeypatch):
    shutil.copytree(world, tmp_path / "world")
    shutil.copytree(ROOT / "recipes", tmp_path / "world" / "recipes")
    monkeypatch.chdir(tmp_path / "world")
    monkeypatch.setattr(builtin_sets, "FASHION_MNIST_FOLDER", tmp_path / "world" / "fashion-mnist")
    monkeypatch.setenv("ALPHABAR_CACHE", str(tmp_path / "cache"))
    if name == "diffusers":
        pytest.importorskip("diffusers")
        pytest.importorskip("onnxscript")
    if name == "conditions":
        shutil.copy(DOCS / "snippets" / "angle.py", tmp_path / "world")
        with registrations_forgotten():
            alphabar.load_plugin("angle.py")
            of_conditions(tmp_path / "world")
    code = (
        python_of_the_readme() if name == "README" else (DOCS / "snippets" / f"{name}.py").read_text(encoding="utf-8")
    )
    before = set(os.listdir())
    for old, new in SMALLER.items():
        code = code.replace(old, new)
    with registrations_forgotten():
        exec(compile(code, name, "exec"), {"TINY": TINY})
    assert name in ("evaluation", "likelihood") or set(os.listdir()) > before


def python_of_the_readme() -> str:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    codes = [code for language, code in code_blocks(text) if language == "python"]
    assert codes
    return "\n".join(codes)

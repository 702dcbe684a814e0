"""The Python of the pages and of the READMEs, run as it stands, page by page, in a folder with what the pages speak of: small stand-ins for
Fashion-MNIST and its run. Only numbers that cost time are made smaller."""

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

from .test_docs import DOCS, ROOT, code_blocks

TINY = {
    "network.channels": [8, 16], "network.blocks": 1, "network.attention": [False, True], "network.groups": 4, "train.batch_size": 8,
    "schedule.steps": 100, "schedule.kind": "cosine", "train.preview_pictures": 2, "train.preview_steps": 2, "train.validation_pictures": 4,
}  # fmt: skip
SMALLER = {
    "minutes=30": "steps=1, settings=TINY", "sample(64)": "sample(2)", "sample(16)": "sample(2)", "range(2000)": "range(3)", ", 2000, 0, None)": ", 20, 0, None)", "n=32": "n=2", "ode_steps=50": "ode_steps=3",
    "resamplings=5, jump=5": "resamplings=1, jump=5", "with_settings(steps=50)": "with_settings(steps=6)", "num_inference_steps=250": "num_inference_steps=3",
    "set_timesteps(250)": "set_timesteps(3)", 'load("runs/fashion")\n': 'load("runs/fashion").with_settings(steps=6)\n',
}  # fmt: skip
PAGES = {
    "README": ROOT / "README.md", **{name: DOCS / "en" / f"{name}.md" for name in ("samplers", "editing", "evaluation", "likelihood", "diffusers")},
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


@pytest.mark.parametrize("name", PAGES)
def test_the_python_of_the_page_runs(name, world, tmp_path, monkeypatch):
    shutil.copytree(world, tmp_path / "world")
    monkeypatch.chdir(tmp_path / "world")
    monkeypatch.setattr(builtin_sets, "FASHION_MNIST_FOLDER", tmp_path / "world" / "fashion-mnist")
    monkeypatch.setenv("ALPHABAR_CACHE", str(tmp_path / "cache"))
    if name == "diffusers":
        pytest.importorskip("diffusers")
        pytest.importorskip("onnxscript")
    text = PAGES[name].read_text(encoding="utf-8")
    codes = [code for language, code in code_blocks(text) if language == "python"]
    assert codes
    found: dict[str, object] = {"TINY": TINY}
    before = set(os.listdir())
    for code in codes:
        for old, new in SMALLER.items():
            code = code.replace(old, new)
        exec(compile(code, name, "exec"), found)
    assert name in ("evaluation", "likelihood") or set(os.listdir()) > before

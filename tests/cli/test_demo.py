"""The demo's promise: new digits of every class that a classifier of real digits accepts, and no copies of the training data."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

import alphabar
from alphabar.data.builtin_sets import load_digits
from alphabar.tasks.running.demo import make_pictures, prepare_demo

STEPS, PER_CLASS, ACCEPTED = 700, 40, 0.9


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A run of the demo with the number of steps that two cores take in its two minutes; the number is fixed so that speed plays no part."""
    out = tmp_path_factory.mktemp("demo") / "run"
    for _ in prepare_demo(out, STEPS).run():
        pass
    make_pictures(out, lambda event: None)
    return out


def classifier(pictures: np.ndarray, labels: np.ndarray) -> nn.Module:
    """A small network that tells real digits apart."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Dropout(0.3), nn.Linear(256, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    x, y = torch.from_numpy(pictures).float() / 255, torch.from_numpy(labels)
    for _ in range(60):
        for part in torch.randperm(len(x)).split(64):
            noisy = x[part] + 0.05 * torch.randn_like(x[part])
            loss = nn.functional.cross_entropy(model(noisy), y[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def nearest(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The distance of each row of a to its nearest row of b."""
    return torch.cdist(torch.from_numpy(a).float(), torch.from_numpy(b).float()).min(1).values.numpy()


def test_the_demo_makes_recognisable_digits_of_every_class_that_are_no_copies(demo):
    pictures, labels, _ = load_digits()
    held_out = np.zeros(len(pictures), bool)
    held_out[json.loads((demo / "data.json").read_text())["held_out"]] = True
    model = classifier(pictures[~held_out], labels[~held_out])
    with torch.no_grad():
        judge = lambda p: model(torch.from_numpy(p).float() / 255).argmax(1).numpy()  # noqa: E731
        assert (judge(pictures[held_out]) == labels[held_out]).mean() > 0.95
        samples = alphabar.load(demo).with_settings(steps=100).sample(10 * PER_CLASS, seed=3)
        wanted = np.array([int(name) for name in samples.classes])
        accepted = [float((judge(samples.pictures[wanted == digit]) == digit).mean()) for digit in range(10)]
    assert min(accepted) >= ACCEPTED, accepted
    flat = lambda p: p.reshape(len(p), -1)  # noqa: E731
    to_training = nearest(flat(samples.pictures), flat(pictures[~held_out]))
    of_held_out = nearest(flat(pictures[held_out]), flat(pictures[~held_out]))
    assert np.median(to_training) >= 0.95 * np.median(of_held_out)
    assert (to_training < 0.25 * np.median(of_held_out)).mean() < 0.01


def test_the_demo_leaves_all_its_pictures(demo):
    from PIL import Image

    for name in ("data-preview.png", "loss.png", "samples.png", "denoising.webp", "previews/filmstrip.png"):
        assert (demo / name).stat().st_size > 500, name
    assert Image.open(demo / "denoising.webp").n_frames > 30
    assert len(list((demo / "previews").glob("step-*.png"))) >= 10

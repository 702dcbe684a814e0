"""The example stays short and true; recipes are configurations; the README's commands are those that CI runs."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from alphabar.settings.config import finish, resolve

ROOT = Path(__file__).parents[1]


def test_tiny_ddpm_fits_a_page_imports_torch_only_and_learns_the_spiral():
    path = ROOT / "examples" / "tiny_ddpm.py"
    assert len(path.read_text().splitlines()) <= 100
    spec = importlib.util.spec_from_file_location("tiny_ddpm", path)
    tiny = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny)
    torch.manual_seed(0)
    points, real = tiny.sample(tiny.train(steps=1500), 500), tiny.spiral(2000)
    assert torch.cdist(points, real).min(1).values.quantile(0.8) < 0.15
    assert torch.cdist(real, points).min(1).values.quantile(0.95) < 0.3


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda p: p.name)
def test_recipes_are_whole_configurations(path):
    values = resolve(None, path)
    config = finish(values, values["data"].get("size") or [28, 28])
    assert config.data.source


@pytest.mark.parametrize("name", ["README.md", "README.zh.md"])
def test_ci_runs_the_commands_of_the_readme(name):
    readme, ci = (ROOT / name).read_text(), (ROOT / ".ci" / "run").read_text()
    for command in (
        "pip install -c constraints.txt .",
        "alphabar demo",
        "pip install -c constraints.txt '.[dev]'",
        "pytest",
    ):
        assert command in readme
        assert command in ci


def test_both_readmes_show_the_same_code_and_pictures():
    import re

    blocks = [
        re.findall(r"```.*?```|\]\([^)]+\.(?:png|webp)\)", (ROOT / name).read_text(), flags=re.S)
        for name in ("README.md", "README.zh.md")
    ]
    assert blocks[0] == blocks[1]
    for link in re.findall(
        r"\]\(((?!http)[^)#]+)\)", (ROOT / "README.md").read_text() + (ROOT / "README.zh.md").read_text()
    ):
        assert (ROOT / link).exists(), link

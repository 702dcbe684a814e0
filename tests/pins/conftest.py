"""A folder to work in that holds copies of the fixtures."""

from __future__ import annotations

import shutil

import pytest
from typer.testing import CliRunner

from alphabar import cli

from .cases import DATA, RUNS, write_shapes


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The current folder, with `digits-run`, `shapes-run`, the data `shapes`, and a cache of its own."""
    monkeypatch.setenv("ALPHABAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for name in RUNS:
        shutil.copytree(DATA / name, tmp_path / name)
    write_shapes(tmp_path / "shapes")
    return tmp_path


@pytest.fixture
def run_words():
    """Run `alphabar WORDS`, which must succeed; returns what it printed with single spaces between words."""

    def run(*words: object) -> str:
        result = CliRunner().invoke(cli.app, list(map(str, words)))
        assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
        return " ".join(result.output.split())

    return run


@pytest.fixture(autouse=True)
def _blank_plots(monkeypatch):
    """Drawing the loss curves takes half of the time of so short a training, and no test here looks at them."""
    monkeypatch.setattr("matplotlib.figure.Figure.draw", lambda *_: None)

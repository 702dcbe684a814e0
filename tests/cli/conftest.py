"""The command line as a fixture."""

from __future__ import annotations

from functools import partial

import pytest

from .running import run_command_line


@pytest.fixture
def alphabar(monkeypatch, capsys):
    """Run a command line; returns (exit code, standard output, standard error)."""
    return partial(run_command_line, monkeypatch, capsys)

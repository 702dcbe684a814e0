"""Plugins: files of the user's own code, run once, and only where the user names them."""

from __future__ import annotations

import sys

import pytest

import alphabar
from alphabar.errors import ConfigurationError

from .registering import registrations_forgotten


@pytest.fixture(autouse=True)
def _forgotten():
    with registrations_forgotten():
        yield


def test_a_plugin_runs_once(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("RUNS = []\nRUNS.append(1)\n")
    first = alphabar.load_plugin(path)
    assert alphabar.load_plugin(str(path)) is first
    assert first.RUNS == [1]


def test_two_plugins_of_one_name_stay_apart(tmp_path):
    for folder, value in (("a", 1), ("b", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(f"VALUE = {value}\n")
    one, other = (alphabar.load_plugin(tmp_path / folder / "mine.py") for folder in ("a", "b"))
    assert (one.VALUE, other.VALUE) == (1, 2)
    assert sys.modules[one.__name__] is one


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("mine.txt", "", "takes a Python file"),
        ("none.py", None, "takes a Python file"),
        ("mine.py", "x = 1\nraise ValueError('no')\n", r"line 2 failed: ValueError: no"),
        ("mine.py", "x = (\n", r"line \d failed: SyntaxError"),
        ("mine.py", "import nothing_of_this_name\n", "line 1 failed: ModuleNotFoundError"),
    ],
)
def test_a_plugin_that_cannot_run_is_a_clear_error(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    before = set(sys.modules)
    with pytest.raises(ConfigurationError, match=message):
        alphabar.load_plugin(tmp_path / name)
    assert not {module for module in set(sys.modules) - before if module.startswith("alphabar_plugin")}

"""Law 7: the tests are tested. Each seeded defect must make the tests that guard against it fail."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import alphabar

from .defects import DEFECTS, Defect

SOURCE = Path(alphabar.__file__).parent
TESTS = Path(__file__).parents[1]


def mutated(defect: Defect, folder: Path) -> Path:
    """A copy of the package with the defect in it; the text to change must stand there exactly once."""
    shutil.copytree(SOURCE, folder / "alphabar", ignore=shutil.ignore_patterns("__pycache__"))
    path = folder / "alphabar" / defect.file
    text = path.read_text()
    assert text.count(defect.old) == 1, f"{defect.file} holds {text.count(defect.old)} times: {defect.old}"
    path.write_text(text.replace(defect.old, defect.new))
    return folder


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda d: d.name.replace(" ", "-"))
def test_a_seeded_defect_is_caught(defect, tmp_path):
    path = mutated(defect, tmp_path)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        str(TESTS / defect.tests),
    ]
    command += ["-k", defect.pattern] if defect.pattern else []
    environment = os.environ | {"PYTHONPATH": str(path), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=TESTS.parent, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 1, f"the tests did not notice:\n{result.stdout[-1500:]}{result.stderr[-1500:]}"
    assert "ImportError" not in result.stdout


def test_there_are_enough_defects_and_their_names_differ():
    assert len(DEFECTS) >= 25
    assert len({defect.name for defect in DEFECTS}) == len(DEFECTS)

"""Law 7: the tests are tested. Each seeded defect must make the tests that guard against it fail."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import cache_from_source
from pathlib import Path

import pytest

import alphabar

from .defects import DEFECTS, Defect

SOURCE = Path(alphabar.__file__).parent
TESTS = Path(__file__).parents[1]

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="the runs against changed copies are forks")


def mutated(defect: Defect, folder: Path) -> Path:
    """A copy of the package with the defect in it; the text to change must stand there exactly once."""
    shutil.copytree(SOURCE, folder / "alphabar")
    path = folder / "alphabar" / defect.file
    text = path.read_text()
    assert text.count(defect.old) == 1, f"{defect.file} holds {text.count(defect.old)} times: {defect.old}"
    path.write_text(text.replace(defect.old, defect.new))
    Path(cache_from_source(str(path))).unlink(missing_ok=True)
    return folder


@pytest.fixture(scope="session")
def zygote():
    """run(path, tests, pattern, output) -> exit code of pytest against the package in `path`."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("zygote.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=TESTS.parent,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        text=True,
    )

    def run(path: Path, tests: str, pattern: str, output: Path) -> int:
        arguments = ["-x", "-q", "-o", "addopts=", "-p", "no:cacheprovider", str(TESTS / tests)]
        arguments += ["-k", pattern] if pattern else []
        process.stdin.write(json.dumps({"path": str(path), "arguments": arguments, "output": str(output)}) + "\n")
        process.stdin.flush()
        return int(process.stdout.readline())

    yield run
    process.stdin.close()
    process.wait(timeout=60)


@needs_fork
@pytest.mark.parametrize("defect", DEFECTS, ids=lambda d: d.name.replace(" ", "-"))
def test_a_seeded_defect_is_caught(defect, zygote, tmp_path):
    output = tmp_path / "output.txt"
    code = zygote(mutated(defect, tmp_path), defect.tests, defect.pattern, output)
    printed = output.read_text()
    assert code == 1, f"the tests did not notice:\n{printed[-3000:]}"
    assert "ImportError" not in printed


@needs_fork
def test_the_tests_run_against_the_copy_and_not_the_package_itself(zygote, tmp_path):
    shutil.copytree(SOURCE, tmp_path / "alphabar")
    (tmp_path / "alphabar" / "gaussian.py").write_text("raise RuntimeError('the copy')\n")
    output = tmp_path / "output.txt"
    assert zygote(tmp_path, "laws/test_gaussian.py", "", output) != 0
    assert "the copy" in output.read_text()


def test_there_are_enough_defects_and_their_names_differ():
    assert len(DEFECTS) >= 25
    assert len({defect.name for defect in DEFECTS}) == len(DEFECTS)

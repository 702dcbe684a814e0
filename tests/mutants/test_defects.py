"""Law 7: the tests are tested. Each seeded defect must make the tests that guard against it fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .defects import AREAS, DEFECTS
from .seeding import Defect, Defects, plant

TESTS = Path(__file__).parents[1]

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="the runs with a defect are forks")


@pytest.fixture(scope="session")
def zygote():
    """run(defect's name, tests, pattern, output) -> exit code of pytest with this defect planted."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("zygote.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=TESTS.parent,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        text=True,
    )

    def run(defect: str, tests: str, pattern: str, output: Path) -> int:
        arguments = ["-x", "-q", "-o", "addopts=", "-p", "no:cacheprovider", str(TESTS / tests)]
        arguments += ["-k", pattern] if pattern else []
        process.stdin.write(json.dumps({"defect": defect, "arguments": arguments, "output": str(output)}) + "\n")
        process.stdin.flush()
        return int(process.stdout.readline())

    yield run
    process.stdin.close()
    process.wait(timeout=60)


@needs_fork
@pytest.mark.parametrize("defect", DEFECTS, ids=lambda d: d.name.replace(" ", "-"))
def test_a_seeded_defect_is_caught(defect: Defect, zygote, tmp_path):
    output = tmp_path / "output.txt"
    code = zygote(defect.name, defect.tests, defect.pattern, output)
    printed = output.read_text()
    assert code == 1, f"the tests did not notice:\n{printed[-3000:]}"
    assert "ImportError" not in printed


@needs_fork
def test_without_a_defect_the_same_tests_pass(zygote, tmp_path):
    """A guard that fails anyway would count every defect as caught."""
    assert zygote("", "laws/test_gaussian.py", "", tmp_path / "output.txt") == 0


def test_a_defect_that_names_nothing_is_an_error():
    with pytest.raises(LookupError, match="no_such_function"):
        plant(Defect("a typo", "no_such_function", lambda original: original, ""))


def test_there_are_enough_defects_and_their_names_differ():
    assert len(DEFECTS) >= 208
    assert len({defect.name for defect in DEFECTS}) == len(DEFECTS)
    assert all(isinstance(area, Defects) for area in AREAS)

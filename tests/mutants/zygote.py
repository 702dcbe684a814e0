"""Runs tests against a package with a defect in it, many times, without importing torch anew: a process that has the libraries and
the package loaded forks for each run, and the child plants the defect.

Reads lines of JSON {"defect", "arguments", "output"} and answers each with the exit code of pytest.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

# Loaded here, so that no child has to: the libraries, and pytest's own parts. Plugins of other packages are left out.
LIBRARIES = (
    "filelock hypothesis.strategies matplotlib.figure numpy PIL.Image PIL.ImageFont pydantic.fields pydantic.main rich.console "
    "safetensors.torch scipy.stats torch torch.distributed.tensor typer.testing yaml"  # torch.testing imports that of distributed
)
SECONDS = 300


def run(defect: str, arguments: list[str], output: str) -> Any:
    """In a child: pytest with the defect of this name planted ("" for none), printing into the file `output`."""
    from mutants.defects import DEFECTS
    from mutants.seeding import plant

    signal.alarm(SECONDS)
    with open(output, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    for each in DEFECTS:
        if each.name == defect:
            plant(each)
    return pytest.main(arguments)


def serve() -> None:
    """Answer requests until standard input ends."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            code = 99
            try:
                code = int(run(**json.loads(line)))
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    for library in LIBRARIES.split():
        importlib.import_module(library)
    with contextlib.redirect_stdout(io.StringIO()):
        pytest.main(["--version", "-o", "addopts="])
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from mutants.seeding import package_modules

    package_modules()
    gc.freeze()  # so that no child looks through all of it for garbage
    serve()

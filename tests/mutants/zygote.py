"""Runs tests against a changed copy of the package, many times, without importing torch anew: a process that has the libraries
loaded, but not alphabar, forks for each run.

Reads lines of JSON {"path", "arguments", "output"} and answers each with the exit code of pytest.
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
from typing import Any

import pytest

# Loaded here, so that no child has to: the libraries, and pytest's own parts. Plugins of other packages are left out.
LIBRARIES = (
    "filelock hypothesis.strategies matplotlib.figure numpy PIL.Image PIL.ImageFont pydantic.fields pydantic.main rich.console "
    "safetensors.torch scipy.stats torch torch.distributed.tensor typer.testing yaml"  # torch.testing imports that of distributed
)
os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
for library in LIBRARIES.split():
    importlib.import_module(library)
with contextlib.redirect_stdout(io.StringIO()):
    pytest.main(["--version", "-o", "addopts="])
gc.freeze()  # so that no child looks through all of it for garbage

SECONDS = 300


def run(path: str, arguments: list[str], output: str) -> Any:
    """In a child: pytest with the package of `path`, printing into the file `output`."""
    signal.alarm(SECONDS)
    with open(output, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.path.insert(0, path)
    os.environ["PYTHONPATH"] = path  # for the commands that tests start
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
    assert "alphabar" not in sys.modules
    serve()

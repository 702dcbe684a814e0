"""Plugins: a Python file of the user's own that registers networks or conditions.

A plugin is code, so only the user can name one, on the command line or from Python. No run folder and no checkpoint can: they say
which registration they need.
"""

from __future__ import annotations

import hashlib
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from .errors import ConfigurationError

LOADED: dict[Path, ModuleType] = {}
"""The plugins of this process by file: each runs once."""


def load_plugin(path: str | Path) -> ModuleType:
    """Run a plugin's file, once in a process, and return it as a module.

    Raises ConfigurationError if there is no such file, or if it fails, with the line at which it fails.
    """
    file = Path(path).expanduser().resolve()
    if file in LOADED:
        return LOADED[file]
    if file.suffix != ".py" or not file.is_file():
        raise ConfigurationError(f"--plugin takes a Python file that registers something, got {str(path)!r}")
    name = f"alphabar_plugin_{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    spec = spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pydantic look up the module of a class
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ConfigurationError(
            f"the plugin {file}{_line_of(error, file)} failed: {type(error).__name__}: {error}"
        ) from error
    LOADED[file] = module
    return module


def _line_of(error: BaseException, file: Path) -> str:
    """Where in the file an error was raised, in words."""
    if isinstance(error, SyntaxError):
        return f", line {error.lineno}"
    lines, traceback = [], error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == str(file):
            lines.append(traceback.tb_lineno)
        traceback = traceback.tb_next
    return f", line {lines[-1]}" if lines else ""

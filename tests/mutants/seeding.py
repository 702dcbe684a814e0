"""Seeded defects: small changes of behaviour, each a function or a constant of the package that is replaced by name.

A name is a constant (`BETA_CAP`), a function (`diffuse`), or a method (`TableSchedule._interpolate`), without its module, so that
code can move between modules without touching a defect. The name must be unique in the package.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import pkgutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import alphabar

Make = Callable[[Any], Any]
"""From the original object to the one that takes its place."""


@dataclass(frozen=True)
class Defect:
    """`make(original)` takes the place of what `target` names; `tests` (and -k `pattern`) must notice."""

    name: str
    target: str
    make: Make
    tests: str
    pattern: str = ""


class Defects(list[Defect]):
    """The defects of one area, collected by a decorator."""

    def seed(self, name: str, target: str, tests: str, pattern: str = "") -> Callable[[Make], Make]:
        """Register the decorated function, which makes the defective object from the original one."""

        def register(make: Make) -> Make:
            self.append(Defect(name, target, make, tests, pattern))
            return make

        return register

    def constant(self, name: str, target: str, value: Any, tests: str, pattern: str = "") -> None:
        """Register a wrong value of a constant."""
        self.append(Defect(name, target, lambda original: value, tests, pattern))


def package_modules() -> list[ModuleType]:
    """Every module of the package that can be imported here, imported."""
    for info in pkgutil.walk_packages(alphabar.__path__, "alphabar."):
        if not info.name.endswith("__main__"):
            with contextlib.suppress(ImportError):  # an optional package is missing
                importlib.import_module(info.name)
    return [module for name, module in sorted(sys.modules.items()) if name.split(".")[0] == "alphabar"]


@cache
def assigned_names(file: str) -> frozenset[str]:
    """The names that a module's own code binds at its top level (constants, functions and classes), imports apart."""
    names = set()
    for node in ast.parse(Path(file).read_text(encoding="utf-8")).body:
        match node:
            case ast.FunctionDef() | ast.ClassDef():
                names.add(node.name)
            case ast.Assign():
                names |= {part.id for target in node.targets for part in ast.walk(target) if isinstance(part, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
    return frozenset(names)


def plant(defect: Defect) -> None:
    """Put a defect into the package, wherever the original is bound. Raises LookupError unless its target is unique."""
    modules = package_modules()
    name, *path = defect.target.split(".")
    owners = [module for module in modules if module.__file__ and name in assigned_names(module.__file__)]
    if len(owners) != 1:
        places = ", ".join(module.__name__ for module in owners) or "no module"
        raise LookupError(f"{defect.name}: {name} is defined in {places}, expected one")
    original = vars(owners[0])[name]
    if path:
        holder = original
        for part in path[:-1]:
            holder = vars(holder)[part]
        setattr(holder, path[-1], defect.make(vars(holder)[path[-1]]))
        return
    replacement = defect.make(original)
    for module in modules:
        for key, value in list(vars(module).items()):
            if value is original and (key == name or callable(original)):
                setattr(module, key, replacement)
            if isinstance(value, FunctionType) and not callable(original):
                replace_default(value, original, replacement)


def replace_default(function: FunctionType, original: Any, replacement: Any) -> None:
    """Put a constant's new value where it is the default of a parameter."""
    if function.__defaults__ and not isinstance(original, int):  # small integers are one object wherever they stand
        function.__defaults__ = tuple(replacement if value is original else value for value in function.__defaults__)

"""The errors that alphabar raises on purpose: one small tree, each message saying what, got, expected, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AlphabarError(Exception):
    """Root of the tree. The command line prints the message and exits with `exit_code`."""

    exit_code = 2


class ConfigurationError(AlphabarError):
    """A setting, an option or an argument that cannot be used."""


class MissingRegistration(ConfigurationError):
    """A kind of network or condition that is not registered in this process, so that its settings cannot be read."""


class DataError(AlphabarError):
    """Data that cannot be read or does not fit."""


class UnusableData(DataError):
    """A value in the data that contradicts what the data says of itself; training on the rest would hide a mistake."""


class CheckpointError(AlphabarError):
    """A run folder or a checkpoint that is missing, damaged, foreign or already there."""


class StorageError(AlphabarError, OSError):
    """A file could not be written: no space left, no permission. What stood there before still stands."""


class NonFiniteError(AlphabarError, ArithmeticError):
    """A loss or a gradient became infinite or not a number; the weights were not touched."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence part that helps with an unknown `name`: the nearest known one and all that are known."""
    known = sorted(known)
    close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}known: {', '.join(known)}"


def unknown(what: str, name: str, known: Iterable[str]) -> ConfigurationError:
    """The error for an unknown preset, schedule, key, class, ... with the nearest name suggested."""
    return ConfigurationError(f"unknown {what} {name!r}; {nearest(str(name), known)}")

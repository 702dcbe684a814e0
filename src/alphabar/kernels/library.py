"""The loaded library of compiled kernels, with the types of all its functions."""

from __future__ import annotations

import ctypes
from ctypes import c_float, c_int, c_long, c_void_p
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .build import Build, Unavailable, built_library

P = c_void_p
SIGNATURES: dict[str, tuple[type | None, tuple[type, ...]]] = {
    "norm_coefficients": (None, (P, P, P, P, P, c_long, c_float, P, c_int, c_int)),
    "norm_affine": (None, (P, P, P, P, P, c_int, c_int, c_int)),
    "norm_gradients": (None, (P, P, P, P, c_long, c_int, P, c_int, c_int)),
    "norm_backward": (None, (P, P, P, P, P, P, P, P, c_int, c_int, c_int)),
    "place_sums": (None, (P, P, P, c_int, c_int)),
    "attention": (c_int, (P, P, P, P, c_int, c_int)),
    "attention_gradients": (c_int, (P, P, P, P, P, P, c_int, c_int)),
    "winograd_packed_floats": (c_long, (c_int, P, c_int)),
    "winograd_pack": (None, (c_int, P, P, P, P, c_int, c_int)),
    "winograd_convolve": (c_int, (c_int, P, P, P, P, P, P, P, P, c_int, c_int)),
    "winograd_kernel_gradient": (c_int, (c_int, P, P, P, P, P, P, P, c_int, c_int)),
}
"""Result and arguments of each function, as in the C++ sources; P is any pointer."""


@dataclass(frozen=True)
class Loaded:
    """The library with the record of its build."""

    functions: ctypes.CDLL
    build: Build


def library() -> ctypes.CDLL:
    """The kernels, built if the cache has none. Raises Unavailable."""
    return loaded().functions


def loaded() -> Loaded:
    """The kernels with the record of their build: `loaded().build.threaded` says whether they use OpenMP. Raises Unavailable."""
    result = load_once()
    if isinstance(result, str):
        raise Unavailable(result)
    return result


@cache
def load_once() -> Loaded | str:
    """The kernels, or the reason why there are none: this process runs a compiler that failed only once."""
    try:
        return load()
    except Unavailable as error:
        return str(error)


def load() -> Loaded:
    """Build where needed, and load. Raises Unavailable."""
    path, record = built_library()
    return Loaded(open_library(path), record)


def open_library(path: Path) -> ctypes.CDLL:
    """Load a library file and declare the types of its functions. Raises Unavailable."""
    try:
        functions = ctypes.CDLL(str(path))
        for name, (result, arguments) in SIGNATURES.items():
            function = getattr(functions, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise Unavailable(f"the compiled kernels in {path} cannot be loaded: {error}; delete the file") from error
    return functions

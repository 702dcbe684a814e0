"""The machine: its processor, its memory, and where it keeps what can be made again."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
from pathlib import Path


def cache_folder() -> Path:
    """Where what can be made again is kept: $ALPHABAR_CACHE, or alphabar in $XDG_CACHE_HOME or ~/.cache."""
    own = os.environ.get("ALPHABAR_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "alphabar"


def processor() -> str:
    """The processor's name and, where the system tells them, a hash of its features: machines of one name can differ in them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    told = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    features = hashlib.sha256(told.get("flags", told.get("Features", "")).encode()).hexdigest()[:8]
    return f"{told.get('model name', platform.machine())} {features}"


TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # the numbers of mallopt's parameters, malloc.h of the GNU C library
LARGEST_KEPT = 32 << 20  # bytes of a block, the most that it takes


def keep_freed_memory() -> bool:
    """Let the C library keep the memory that one training step frees for the next, and say whether it does (GNU only).

    As it comes it hands blocks back to the system, which then clears each page anew in the next step. What a process holds at its peak
    stays the same within a few percent.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    return bool(mallopt(TRIM_THRESHOLD, 2**31 - 1)) and bool(mallopt(MMAP_THRESHOLD, LARGEST_KEPT))


def give_back_freed_memory() -> bool:
    """Hand what was freed back to the system after work that is not repeated, and say whether anything was (GNU only)."""
    try:
        return bool(ctypes.CDLL(None).malloc_trim(0))
    except (OSError, AttributeError, TypeError):
        return False

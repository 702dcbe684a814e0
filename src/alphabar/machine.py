"""The machine: its processor, and where it keeps what can be made again."""

from __future__ import annotations

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

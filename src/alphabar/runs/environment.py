"""What a run was made with: versions, machine, threads, devices."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "alphabar", "torch", "numpy", "safetensors", "pillow", "pydantic", "pyyaml", "typer", "rich", "matplotlib", "filelock",
)  # fmt: skip
OPTIONAL = {"tensorboard": "tensorboard: training events for TensorBoard"}


def package_version(name: str) -> str | None:
    """The installed version, None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


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


def describe_environment() -> dict[str, Any]:
    """Versions, system and devices as plain values."""
    import torch

    return {
        "python": sys.version.split()[0],
        "system": platform.platform(),
        "machine": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "mps": torch.backends.mps.is_available(),
        "packages": {name: package_version(name) for name in PACKAGES},
    }

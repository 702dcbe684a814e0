"""What a run was made with: versions, machine, threads, devices."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
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

"""What this machine and this installation can do."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch

from ...data.builtin_sets import FASHION_MNIST_FOLDER
from ...engine.ways import PRECISIONS
from ...kernels.build import Unavailable
from ...kernels.library import loaded
from ...machine import pick_device
from ...runs.environment import OPTIONAL, describe_environment, package_version
from ..base import PlainPlan
from ..doctor import DoctorRequest
from ..events import Emit, Event, TaskResult
from ..job import Stop


def plan(request: DoctorRequest, emit: Emit) -> PlainPlan:
    """Nothing is done in advance."""
    return PlainPlan(request)


def run(plan: PlainPlan, stop: Stop) -> Iterator[Event]:
    """A line for each package, device and precision."""
    environment = describe_environment()
    values = {name: version or "MISSING" for name, version in environment.pop("packages").items()}
    values |= {key: str(value) if value not in ([], None) else "none" for key, value in environment.items()}
    for name, (works, detail) in check_precisions().items():
        values[name] = f"{'works' if works else 'does not work'}: {detail}"
    values["kernels"] = describe_kernels()
    installed = FASHION_MNIST_FOLDER.is_dir()
    values["fashion-mnist"] = (
        f"found in {FASHION_MNIST_FOLDER}" if installed else "not installed (apt-get install dataset-fashion-mnist)"
    )
    values |= {name: package_version(name) or f"not installed ({purpose})" for name, purpose in OPTIONAL.items()}
    yield TaskResult([f"{key:<16}{value}" for key, value in values.items()], values)


def describe_kernels() -> str:
    """Whether the compiled kernels can be built here, by which compiler, and whether they use several threads."""
    try:
        build = loaded().build
    except Unavailable as error:
        return f"do not work: {error}"
    threads = "with OpenMP" if build.threaded else "without OpenMP: one thread (install OpenMP for the compiler)"
    return f"work, built by {build.compiler} {threads}"


def check_precisions() -> dict[str, tuple[bool, str]]:
    """For each precision whether a small convolution works on the best device, and its time against float32."""
    device, times, results = pick_device("auto"), dict[str, float](), {}
    for name, dtype in PRECISIONS.items():
        try:
            conv = torch.nn.Conv2d(32, 32, 3, padding=1).to(device, dtype)
            x = torch.randn(8, 32, 28, 28, device=device, dtype=dtype)
            for _ in range(3):  # the last one is timed warm
                began = time.perf_counter()
                conv(x).float().sum().item()
                times[name] = time.perf_counter() - began
            ratio = times[name] / times["float32"]
            results[name] = (True, f"{ratio:.1f} times float32's time for a convolution on {device}")
        except RuntimeError as error:
            results[name] = (False, str(error).splitlines()[0])
    return results

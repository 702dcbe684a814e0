"""`alphabar info`, `alphabar settings`, `alphabar doctor`: commands that only tell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer


def info(
    path: Annotated[Path, typer.Argument(help="A PNG made by alphabar, a run folder, or a checkpoint folder.")],
) -> None:
    """Say how a picture was made, or what is in a run or a checkpoint."""
    from ..errors import DataError

    if path.is_file():
        from ..generation.images import read_record

        values = read_record(path)
    elif (path / "checkpoint.json").exists():
        values = describe_checkpoint(path)
    elif path.exists():
        values = describe_run(path)
    else:
        raise DataError(f"{path} does not exist; give a PNG made by alphabar, a run folder, or a checkpoint folder")
    for key, value in values.items():
        print(f"{key:<14}{value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}")


def describe_checkpoint(path: Path) -> dict[str, Any]:
    """What a checkpoint holds."""
    from ..runs.checkpoint import is_whole, open_checkpoint

    found = open_checkpoint(path)
    return {
        "checkpoint": str(path),
        "step": found.step,
        "whole": is_whole(path),
        "model": found.hash(),
        "preset": found.config.preset,
        "shape": found.shape,
        "conditions": list(found.config.conditions),
        "classes": found.config.classes,
        "data": found.config.data.source,
        "megabytes": round(sum(entry["bytes"] for entry in found.files.values()) / 1e6, 1),
    }


def describe_run(path: Path) -> dict[str, Any]:
    """What a run has come to."""
    from ..runs.folder import RunFolder

    run = RunFolder.open(path)
    checkpoints, metrics = run.checkpoints(), run.metrics()
    values: dict[str, Any] = {
        "run": str(path),
        "created": run.read("run.json").get("created", ""),
        "command": run.read("run.json").get("command", ""),
    }
    values |= {"steps": run.config.train.steps, "checkpoints": [p.name for p in checkpoints]}
    if metrics:
        values |= {
            "last step": metrics[-1]["step"],
            "loss": metrics[-1]["loss"],
            "held out": metrics[-1]["validation_loss"],
        }
    return values | ({"newest": describe_checkpoint(checkpoints[-1])} if checkpoints else {})


def settings(
    prefix: Annotated[str, typer.Argument(help="Only settings whose key starts so, for example train.")] = "",
) -> None:
    """List the presets, and every setting for --set and --config with its default and meaning."""
    from pydantic_core import PydanticUndefined

    from ..settings.config import PRESETS, all_fields

    if not prefix:
        print("presets (--preset): auto, " + ", ".join(PRESETS) + "\n")
    for key, field in all_fields():
        if key.startswith(prefix) and field.description:
            default = field.get_default(call_default_factory=True)
            shown = "" if default is PydanticUndefined else f" = {json.dumps(default)}"
            print(f"{key}{shown}\n    {field.description}")


def doctor() -> None:
    """Print versions, devices, threads, precisions and what is missing, to paste into a bug report."""
    from ..runs.environment import OPTIONAL, describe_environment, package_version

    found = describe_environment()
    for name, version in found.pop("packages").items():
        print(f"{name:<16}{version or 'MISSING'}")
    for key, value in found.items():
        print(f"{key:<16}{value if value not in ([], None) else 'none'}")
    for name, (works, detail) in check_precisions().items():
        print(f"{name:<16}{'works' if works else 'does not work'}: {detail}")
    from ..data.builtin_sets import FASHION_MNIST_FOLDER

    print(
        f"{'fashion-mnist':<16}{'found in ' + str(FASHION_MNIST_FOLDER) if FASHION_MNIST_FOLDER.is_dir() else 'not installed (apt-get install dataset-fashion-mnist)'}"
    )
    for name, purpose in OPTIONAL.items():
        print(f"{name:<16}{package_version(name) or f'not installed ({purpose})'}")


def check_precisions() -> dict[str, tuple[bool, str]]:
    """For each precision whether a small convolution works on the best device, and its time against float32."""
    import time

    import torch

    from ..engine.ways import PRECISIONS
    from ..machine import pick_device

    device, times, results = pick_device("auto"), {}, {}
    for name, dtype in PRECISIONS.items():
        try:
            conv = torch.nn.Conv2d(32, 32, 3, padding=1).to(device, dtype)
            x = torch.randn(8, 32, 28, 28, device=device, dtype=dtype)
            for _ in range(3):  # the last one is timed warm
                began = time.perf_counter()
                conv(x).float().sum().item()
                times[name] = time.perf_counter() - began
            results[name] = (
                True,
                f"{times[name] / times['float32']:.1f} times float32's time for a convolution on {device}",
            )
        except RuntimeError as error:
            results[name] = (False, str(error).splitlines()[0])
    return results

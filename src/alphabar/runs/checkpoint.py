"""Checkpoints: checkpoints/step-N/ with

    model.safetensors       the weights that training goes on with
    ema.safetensors         their average, which samples are made with
    optimizer.safetensors   tensors of the optimizer (`exp_avg.<parameter>`, ...) and of the draw of times
    checkpoint.json         format, step, the whole configuration, the data's shape and classes, size and hash of each file

A checkpoint is whole or not there, and can be sampled from without the run around it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from ..errors import CheckpointError, ConfigurationError, MissingRegistration
from ..settings.config import Config, validate
from ..storage import replacing_folder, write_bytes, write_json
from .folder import FORMAT, NAMES_OF_1, READABLE, RunFolder, to_current

Tensors = dict[str, Tensor]
PARTS = ("model", "ema", "optimizer")
ENCODERS = "encoders.kinds."


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk: its folder and what its checkpoint.json says."""

    path: Path
    step: int
    config: Config
    shape: tuple[int, ...]
    fingerprint: str
    files: dict[str, dict[str, Any]]
    format: int = FORMAT

    def hash(self, part: str = "ema") -> str:
        """Twelve hex digits that name the weights of a part."""
        return str(self.files[f"{part}.safetensors"]["sha256"])[:12]

    def tensors(self, part: str) -> Tensors:
        """The tensors of "model", "ema" or "optimizer", on the CPU. Raises CheckpointError if the file is missing or damaged."""
        path = self.path / f"{part}.safetensors"
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise CheckpointError(f"{path} is missing{previous_good(self.path)}") from None
        except OSError as error:
            raise CheckpointError(f"cannot read {path}: {error.strerror}{previous_good(self.path)}") from None
        expected = self.files.get(path.name, {})
        if hashlib.sha256(content).hexdigest() != expected.get("sha256"):
            raise CheckpointError(
                f"{path} is damaged: {len(content)} bytes, expected {expected.get('bytes')} with another hash{previous_good(self.path)}"
            )
        try:
            tensors = safetensors.torch.load(content)
            return {current_name(name, self.format): tensor for name, tensor in tensors.items()}
        except SafetensorError as error:
            raise CheckpointError(f"{path} is not a safetensors file: {error}{previous_good(self.path)}") from None


def current_name(tensor: str, written_as: int) -> str:
    """The name that a tensor of a checkpoint of this format has now, which tells its condition by that condition's name."""
    for old, new in NAMES_OF_1.items() if written_as == 1 else ():
        tensor = tensor.replace(f"{ENCODERS}{old}.", f"{ENCODERS}{new}.")
    return tensor


def save_checkpoint(
    run: RunFolder, step: int, config: Config, shape: tuple[int, ...], fingerprint: str, tensors: Mapping[str, Tensors]
) -> Path:
    """Write checkpoints/step-N and remove the oldest ones beyond train.keep_checkpoints. Raises StorageError, harming nothing."""
    path = run.path / "checkpoints" / f"step-{step}"
    for leftover in path.parent.glob(".step-*"):  # of a process that was killed while it wrote
        shutil.rmtree(leftover, ignore_errors=True)
    with replacing_folder(path) as folder:
        files = {}
        for part in PARTS:
            content = safetensors.torch.save(
                {name: tensor.detach().cpu().contiguous() for name, tensor in tensors[part].items()}
            )
            write_bytes(folder / f"{part}.safetensors", content)
            files[f"{part}.safetensors"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        record = {
            "format": FORMAT,
            "step": step,
            "shape": shape,
            "fingerprint": fingerprint,
            "files": files,
            "config": config.model_dump(mode="json"),
        }
        write_json(folder / "checkpoint.json", record)
    for old in run.checkpoints()[: -config.train.keep_checkpoints]:
        shutil.rmtree(old, ignore_errors=True)
    return path


def open_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in this folder. Raises CheckpointError, naming a good one beside it, if it is foreign or damaged."""
    record_path = path / "checkpoint.json"
    try:
        record = json.loads(record_path.read_text())
        if record["format"] not in READABLE:
            raise CheckpointError(
                f"{path} has checkpoint format {record['format']}, this alphabar reads format {FORMAT}"
            )
        return Checkpoint(
            path,
            record["step"],
            validate(Config, to_current(record["config"], record["format"])),
            tuple(record["shape"]),
            record["fingerprint"],
            record["files"],
            record["format"],
        )
    except FileNotFoundError:
        raise CheckpointError(
            f"{path} is not an alphabar checkpoint (no checkpoint.json){previous_good(path)}"
        ) from None
    except MissingRegistration as error:
        raise MissingRegistration(f"{path}: {error}") from None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, OSError, ConfigurationError) as error:
        raise CheckpointError(
            f"{record_path} is damaged ({type(error).__name__}: {error}){previous_good(path)}"
        ) from None


def find_checkpoint(path: Path, name: str | None = None) -> Checkpoint:
    """The checkpoint meant by a run folder and a name: a step, "step-N", a folder, or None for the newest one."""
    if (path / "checkpoint.json").exists() and name is None:
        return open_checkpoint(path)
    run = RunFolder.open(path)
    if name is None:
        return open_checkpoint(run.latest_checkpoint())
    candidates = [run.path / "checkpoints" / f"step-{name}", run.path / "checkpoints" / name, Path(name)]
    for candidate in candidates:
        if candidate.is_dir():
            return open_checkpoint(candidate)
    raise CheckpointError(
        f"no checkpoint {name!r} in {path}; there are: {', '.join(p.name for p in run.checkpoints()) or 'none'}"
    )


def previous_good(path: Path) -> str:
    """A sentence part that names the newest whole checkpoint beside a bad one."""
    if path.parent.name != "checkpoints":
        return ""
    for other in reversed(RunFolder(path.parent.parent).checkpoints()):
        if other != path and is_whole(other):
            return f"; {other.name} is whole: remove {path} to go on from it, or sample with --checkpoint {other.name}"
    return "; no other checkpoint of this run is whole"


def is_whole(path: Path) -> bool:
    """Whether all files of a checkpoint are there with their right sizes and hashes."""
    try:
        files = json.loads((path / "checkpoint.json").read_text())["files"]
        return all(
            hashlib.sha256((path / name).read_bytes()).hexdigest() == entry["sha256"] for name, entry in files.items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def load_weights(module: Any, tensors: Tensors, path: Path) -> None:
    """Put tensors into a module, all names and shapes matching. Raises CheckpointError otherwise."""
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(
            f"{path} does not fit the network of its own configuration: {str(error).splitlines()[1].strip()}"
        ) from None

"""The files of a diffusers pipeline folder: where they are, and how they are read without running anything that is in them."""

from __future__ import annotations

import json
import pickle
import pickletools
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from ..errors import CheckpointError, ConfigurationError
from ..runs.checkpoint import Tensors

DIFFUSERS_VERSION = "0.42.1"  # the version whose classes the files are written for, and tested with
INDEX, UNET_CONFIG, SCHEDULER_CONFIG = "model_index.json", "config.json", "scheduler_config.json"
CARD, GRID = "README.md", "samples.png"
WEIGHTS = "diffusion_pytorch_model"
SUFFIXES = (".safetensors", ".bin", ".pt")
UNET_CLASS = "UNet2DModel"
CLASS_TABLE = "class_embedding.weight"


@dataclass(frozen=True)
class PipelineFolder:
    """Where the parts of a pipeline lie: in unet/ and scheduler/, or all in the folder itself, as the first repositories have it."""

    path: Path
    unet: Path
    scheduler: Path

    @classmethod
    def open(cls, path: Path) -> PipelineFolder:
        """The parts of this folder. Raises CheckpointError or ConfigurationError if it is no pipeline of a U-Net and a scheduler."""
        parts = {name: path / name if (path / name).is_dir() else path for name in ("unet", "scheduler")}
        if not (parts["unet"] / UNET_CONFIG).is_file():
            what = "has no unet/config.json or config.json" if path.is_dir() else "is not a folder"
            raise CheckpointError(f"{path} {what}; give a pipeline folder of diffusers, as save_pretrained writes it")
        if (path / INDEX).is_file():
            check_index(path / INDEX, read_json(path / INDEX))
        return cls(path, parts["unet"], parts["scheduler"])

    def unet_config(self) -> dict[str, Any]:
        """The network's configuration. Raises ConfigurationError if it is of another class."""
        path = self.unet / UNET_CONFIG
        config = read_json(path)
        if config.get("_class_name") != UNET_CLASS:
            raise ConfigurationError(
                f"{path} describes a {config.get('_class_name')}; alphabar imports {UNET_CLASS} only"
            )
        return config

    def scheduler_config(self) -> dict[str, Any]:
        """The scheduler's configuration. Raises CheckpointError if there is none."""
        path = self.scheduler / SCHEDULER_CONFIG
        if not path.is_file():
            raise CheckpointError(f"{path} is missing; without it nobody knows which noise the network was trained on")
        return read_json(path)

    def tensors(self) -> Tensors:
        """The weights, float32, by the names that diffusers has for them today. Raises CheckpointError."""
        found = [path for suffix in SUFFIXES if (path := self.unet / f"{WEIGHTS}{suffix}").is_file()]
        if not found:
            others = ", ".join(sorted(path.name for path in self.unet.glob(f"{WEIGHTS}*"))) or "nothing like it"
            raise CheckpointError(
                f"{self.unet} has no {WEIGHTS}.safetensors, .bin or .pt but {others}; save it as one file of full precision"
            )
        return {current_name(name): tensor.float() for name, tensor in read_weights(found[0]).items()}


def check_index(path: Path, index: Mapping[str, Any]) -> None:
    """Raise ConfigurationError if a pipeline is made of more than a UNet2DModel and a scheduler."""
    parts = {name: part for name, part in index.items() if isinstance(part, list) and part[-1:] not in ([], [None])}
    more = ", ".join(sorted(set(parts) - {"unet", "scheduler"}))
    if more:
        raise ConfigurationError(
            f"{path}: the pipeline {index.get('_class_name')} also has {more}; "
            f"alphabar imports a {UNET_CLASS} with its scheduler, which makes pictures by itself"
        )


def read_json(path: Path) -> dict[str, Any]:
    """The values of a JSON file that holds an object. Raises CheckpointError."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} must hold an object {{...}}, got {type(values).__name__}")
    return values


def read_weights(path: Path) -> Tensors:
    """The tensors of a .safetensors file, or of a torch file by torch's loader of weights alone, which runs nothing.

    Raises CheckpointError for a file that is damaged, or that holds anything but tensors by name, such as code.
    """
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a file that is refused, the error says all
            tensors = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged, or not a safetensors file: {error}") from None
    except pickle.UnpicklingError as error:
        raise CheckpointError(refused_pickle(path, str(error))) from None
    except Exception as error:  # a foreign file can make the loader fail in any way
        why = str(error).partition("\n")[0] or type(error).__name__
        raise CheckpointError(f"{path} cannot be read as weights: {why}") from None
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise CheckpointError(f"{path} does not hold tensors by name, as the state_dict of a {UNET_CLASS} is")
    return tensors


def refused_pickle(path: Path, reason: str) -> str:
    """Why a torch file was refused, naming what it wanted to call."""
    named = re.search(r"GLOBAL ([\w.]+)", reason)
    wanted = named[1] if named else first_call(path)
    what = f"it would call {wanted}" if wanted else "it is damaged, or no file of weights alone"
    return f"{path} was refused and nothing in it was run: {what}; use a .safetensors file of these weights"


def first_call(path: Path) -> str | None:
    """The first function or class that a bare pickle names, found by reading its instructions without following them."""
    strings: list[str] = []
    try:
        with path.open("rb") as file:
            for opcode, value, _ in pickletools.genops(file):
                if opcode.name in ("GLOBAL", "INST"):
                    return str(value).replace(" ", ".")
                if opcode.name == "STACK_GLOBAL":
                    return ".".join(strings[-2:])
                if isinstance(value, str):
                    strings.append(value)
    except (ValueError, IndexError):
        pass  # it breaks off, or is no pickle at all
    return None


RENAMED = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Layers of an attention block that diffusers called otherwise before its version 0.15."""


def current_name(name: str) -> str:
    """The name that a parameter has today."""
    return re.sub(
        rf"(\.attentions\.\d+\.)({'|'.join(RENAMED)})(\.)", lambda match: match[1] + RENAMED[match[2]] + match[3], name
    )


def check_new_folder(path: Path) -> None:
    """Raise ConfigurationError if something would be written over."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ConfigurationError(f"{path} exists already; alphabar writes over no folder, so choose another")

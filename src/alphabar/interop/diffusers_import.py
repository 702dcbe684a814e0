"""A pipeline folder of diffusers as a run folder, which is then sampled, trained on, edited and evaluated as any other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, ConfigurationError
from ..model import build_denoiser
from ..runs.checkpoint import Tensors, load_weights, save_checkpoint
from ..runs.environment import describe_environment
from ..runs.folder import RunFolder
from ..settings.base import validate
from ..settings.conditions import read_condition
from ..settings.config import Config
from ..storage import replacing_folder, write_json
from .files import CLASS_TABLE, PipelineFolder, check_new_folder
from .model_card import read_head
from .scheduler_config import from_scheduler_config
from .unet_config import from_unet_config, picture_shape, with_defaults

SOURCE = "(imported from diffusers)"
CONDITION = "class"
SENSELESS = (TypeError, ValueError, KeyError, ArithmeticError, RuntimeError)
"""What a configuration can lead to in which a value is of a kind that none should have there."""


@dataclass(frozen=True)
class Import:
    """A model of diffusers as one of alphabar's. `notes` tell what is not quite as it was there."""

    config: Config
    shape: tuple[int, ...]
    tensors: Tensors
    origin: Mapping[str, Any]
    notes: list[str] = field(default_factory=list)


def read_import(path: Path, size: Sequence[int] | None = None) -> Import:
    """Read a pipeline folder; size: height and width where its configuration leaves them open.

    Raises CheckpointError for a folder that is incomplete, damaged or tries to run code, and ConfigurationError with every
    reason why alphabar cannot hold the model.
    """
    folder = PipelineFolder.open(path)
    unet, scheduler = folder.unet_config(), folder.scheduler_config()
    try:
        config, shape = read_config(folder, unet, scheduler, size)
    except SENSELESS as error:
        raise CheckpointError(f"the configuration in {path} makes no sense: {error}") from None
    tensors, notes = own_tensors(folder.tensors(), read_classes(path, unet)[1])
    denoiser = build_denoiser(config, shape)
    load_weights(denoiser, tensors, folder.unet)
    origin = {"folder": path.name, "unet": unet, "scheduler": scheduler}
    return Import(config, shape, tensors, origin, [*notes, *ignored(unet, scheduler)])


def read_config(
    folder: PipelineFolder, unet: Mapping[str, Any], scheduler: Mapping[str, Any], size: Sequence[int] | None
) -> tuple[Config, tuple[int, ...]]:
    """The whole configuration and the shape of the pictures."""
    values = with_defaults(unet)
    network = from_unet_config(unet, folder.unet)
    shape = picture_shape(values, size, folder.unet)
    if values["out_channels"] not in (shape[0], 2 * shape[0]):
        raise ConfigurationError(
            f"{folder.unet} cannot be imported: out_channels is {values['out_channels']}, but must be in_channels = {shape[0]}, or twice that with a learned variance"
        )
    parts = from_scheduler_config(scheduler, values["out_channels"] == 2 * shape[0], folder.scheduler)
    classes = read_classes(folder.path, unet)[0]
    conditions = {CONDITION: read_condition(CONDITION, {"classes": classes})} if classes else {}
    data = {"source": SOURCE, "size": list(shape[1:]), "channels": shape[0], "conditions": list(conditions)}
    config = {
        "data": data,
        "network": network,
        "conditions": conditions,
        "train": {"channels_last": False},  # convolutions round as those of diffusers do
        **dict(zip(("schedule", "diffusion", "sample"), parts, strict=True)),
    }
    return validate(Config, config), shape


def read_classes(path: Path, unet: Mapping[str, Any]) -> tuple[list[str], bool]:
    """The names of the classes, by a card of alphabar's or class_0, class_1, ..., and whether one row more stands for null."""
    count = unet.get("num_class_embeds")
    if count is None:
        return [], False
    if not isinstance(count, int) or count < 1:
        raise ConfigurationError(f"{path} cannot be imported: num_class_embeds must be 1 or more, got {count!r}")
    head = read_head(path)
    names, null = head.get("classes"), head.get("null_class")
    known = isinstance(names, list) and all(isinstance(name, str) for name in names) and len(set(names)) == len(names)
    if known and names and len(names) == null == count - 1:
        return names, True
    return [f"class_{i}" for i in range(count)], False


def own_tensors(tensors: Tensors, has_null: bool) -> tuple[Tensors, list[str]]:
    """diffusers' weights by our names, and a note if a row for "no class" had to be made up."""
    own, notes = {}, []
    for name, tensor in tensors.items():
        if name != CLASS_TABLE:
            own[f"network.{name}"] = tensor
            continue
        if not has_null and tensor.ndim == 2:  # one of another shape is refused by name when it is loaded
            tensor = with_null_row(tensor)
            notes.append(
                "it was not trained without a class: 'no class' is the mean of all, so ask for one, and train on before guiding"
            )
        own[f"encoders.kinds.{CONDITION}.embedding.weight"] = tensor
    return own, notes


def with_null_row(table: Tensor) -> Tensor:
    """A class embedding (K, D) with the mean of its rows below it, the least surprising start for a null class."""
    return torch.cat([table, table.mean(0, keepdim=True)])


def ignored(unet: Mapping[str, Any], scheduler: Mapping[str, Any]) -> Iterator[str]:
    """What the configurations hold that changes no picture of one step: how their scheduler samples, and unknown fields."""
    foreign = sorted(name for name in unet if name not in with_defaults({}) and not name.startswith("_"))
    if foreign:
        yield f"fields that UNet2DModel does not know were ignored, as diffusers does: {', '.join(foreign)}"
    if scheduler.get("_class_name") != "DDPMScheduler":
        yield f"the network is that of {scheduler.get('_class_name')}, but alphabar samples with its own methods"


def write_import(found: Import, out: Path, command: str = "") -> None:
    """Write the run folder `out`, which must be new, with checkpoint step-0. Raises ConfigurationError, StorageError."""
    check_new_folder(out)
    with replacing_folder(out) as folder:
        run = RunFolder.create(folder, command)
        run.write_config(found.config)
        write_json(folder / "environment.json", describe_environment())
        write_json(folder / "import.json", {**found.origin, "notes": found.notes})
        weights = {"model": found.tensors, "ema": found.tensors, "optimizer": {}}
        save_checkpoint(run, 0, found.config, found.shape, "", weights)

"""A trained model as a pipeline folder of diffusers: model_index.json, unet/, scheduler/ and a model card.

The weights carry over one to one (see `unet_config`); the class embedding becomes UNet2DModel's, its last row being null.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch

from ..conditions.kinds import kind_of
from ..conditions.label import LabelEncoder
from ..diffusion.schedule import build_schedule
from ..errors import ConfigurationError
from ..generation.output import Samples
from ..generation.pipeline import STEPS_OF, Pipeline, load
from ..runs.checkpoint import Checkpoint, Tensors, find_checkpoint
from ..runs.folder import RunFolder
from ..samplers.base import SampleState
from ..settings.config import Config
from ..settings.networks import UNetSettings
from ..storage import replacing_folder, write_bytes, write_json, write_text
from .files import (
    CARD,
    CLASS_TABLE,
    DIFFUSERS_VERSION,
    GRID,
    INDEX,
    SCHEDULER_CONFIG,
    UNET_CLASS,
    UNET_CONFIG,
    WEIGHTS,
    check_new_folder,
)
from .model_card import CardFacts, write_card
from .scheduler_config import SPACINGS, to_scheduler_config
from .unet_config import size_obstacle, to_unet_config

GRID_PICTURES, GRID_STEPS = 16, 50


@dataclass(frozen=True)
class Export:
    """A model that diffusers can hold: its checkpoint, which weights of it, and the name of its class condition if it has one."""

    found: Checkpoint
    part: str
    condition: str | None

    @classmethod
    def open(cls, run: Path, checkpoint: str | None = None, raw_weights: bool = False) -> Export:
        """The model of a run. Raises ConfigurationError with every reason why diffusers cannot hold it."""
        found = find_checkpoint(run, checkpoint)
        reasons = [*obstacles(found.config, found.shape)]
        if reasons:
            raise ConfigurationError(f"{found.path} cannot be exported to diffusers: {'; '.join(reasons)}")
        return cls(found, "model" if raw_weights else "ema", next(iter(found.config.conditions), None))

    @property
    def config(self) -> Config:
        """The configuration that it was trained with."""
        return self.found.config

    @property
    def classes(self) -> list[str]:
        """The names of its classes."""
        return list(getattr(self.config.conditions[self.condition], "classes", [])) if self.condition else []

    def tensors(self) -> Tensors:
        """The weights by diffusers' names."""
        names = {f"encoders.kinds.{self.condition}.embedding.weight": CLASS_TABLE}
        return {
            names.get(name) or name.removeprefix("network."): tensor.float().contiguous()
            for name, tensor in self.found.tensors(self.part).items()
        }

    def unet_config(self) -> dict[str, Any]:
        """The configuration of its UNet2DModel."""
        assert isinstance(self.config.network, UNetSettings)
        out_channels = self.found.shape[0] * (2 if self.config.diffusion.learned_variance else 1)
        rows = len(self.classes) + 1 if self.condition else None
        return to_unet_config(self.config.network, self.found.shape, out_channels, rows)

    def sample_grid(self, on_state: Callable[[SampleState], None] | None = None) -> Samples:
        """A few pictures for the card."""
        pipeline = self.pipeline()
        return pipeline.with_settings(steps=self.grid_steps).sample(GRID_PICTURES, on_state=on_state)

    @property
    def grid_steps(self) -> int:
        """The reverse steps of those pictures."""
        return min(GRID_STEPS, self.config.schedule.steps)

    def pipeline(self) -> Pipeline:
        """The model, ready to make pictures."""
        return load(self.found.path, raw_weights=self.part == "model")


def obstacles(config: Config, shape: tuple[int, ...]) -> Iterator[str]:
    """Why a UNet2DModel with a DDPMScheduler cannot be this model, one sentence part each."""
    if not isinstance(config.network, UNetSettings):
        what = f"makes points of shape {shape}" if len(shape) != 3 else "is a network of its own (use --to onnx)"
        yield f"network.kind={config.network.kind} {what}, diffusers' pipelines make pictures by a UNet2DModel"
        return
    for name, settings in config.conditions.items():
        if kind_of(name, settings).encoder is not LabelEncoder:
            kind = settings.kind or name
            yield f"the condition {name} ({kind}) has no door in UNet2DModel, which takes a class at most; use --to onnx"
    labels = [name for name, settings in config.conditions.items() if kind_of(name, settings).encoder is LabelEncoder]
    if len(labels) > 1:
        yield f"UNet2DModel has one class embedding, this model has the class conditions {', '.join(labels)}; use --to onnx"
    if config.network.patch > 1:
        yield f"network.patch={config.network.patch}: UNet2DModel works on pixels, not on squares of them; use --to onnx"
    yield from size_obstacle(config.network, shape)
    if build_schedule(config.schedule).steps is None:
        yield f"schedule.kind={config.schedule.kind} has no table of steps, which diffusers' schedulers need; use --to onnx"
    elif config.diffusion.time != "step":
        yield "diffusion.time=log_snr: diffusers' schedulers tell the network the number of the step; use --to onnx"


def export_notes(config: Config) -> list[str]:
    """What carries over, but not quite as here; for the card and for whoever exports."""
    notes, sample, steps = [], config.sample, config.schedule.steps
    if sample.sampler not in ("auto", "ancestral"):
        notes.append(
            f"sample.sampler={sample.sampler} is not carried over: DDPMScheduler samples as sampler=ancestral does"
        )
    if sample.grid not in (None, *SPACINGS):
        notes.append(f"sample.grid={sample.grid} is not carried over: DDPMScheduler steps evenly (trailing)")
    if config.diffusion.learned_variance and sample.variance not in (None, "learned"):
        notes.append(f"sample.variance={sample.variance} is not carried over: the scheduler uses the learned variance")
    if config.diffusion.learned_variance or sample.variance == "beta":
        notes.append(
            f"with this variance DDPMScheduler adds noise on its last step too, unless that is step 0: take all {steps} steps"
        )
    if config.conditions and (sample.guidance != 1 or sample.guidance_rescale):
        notes.append("guidance is not carried over: a loop of your own must guide")
    if config.train.precision == "bfloat16":
        notes.append(
            f"alphabar computes this network in {config.train.precision}, diffusers in float32 with the same weights: the pictures are alike, not equal; "
            "they are equal with `--set train.precision=float32` in training, and after `alphabar import`"
        )
    return notes


def write_export(export: Export, out: Path, licence: str = "unknown", grid: Samples | None = None) -> list[str]:
    """Write the pipeline folder `out`, which must be new; returns what is good to know. Raises ConfigurationError, StorageError."""
    check_new_folder(out)
    config, facts = export.config, card_facts(export, out.name, licence, grid)
    weights = safetensors.torch.save(export.tensors(), metadata={"format": "pt"})
    with replacing_folder(out) as folder:
        write_json(folder / INDEX, index())
        write_json(folder / "unet" / UNET_CONFIG, export.unet_config())
        write_bytes(folder / "unet" / f"{WEIGHTS}.safetensors", weights)
        scheduler = to_scheduler_config(config.schedule, config.diffusion, config.sample)
        write_json(folder / "scheduler" / SCHEDULER_CONFIG, scheduler)
        if grid is not None:
            grid.save(folder / GRID)
        write_text(folder / CARD, write_card(config, facts))
    return facts.notes


def card_facts(export: Export, name: str, licence: str, grid: Samples | None) -> CardFacts:
    """What the card tells beside the configuration."""
    found, sample = export.found, export.config.sample
    weights = "the weights of training" if export.part == "model" else "the average of the weights of training"
    ancestral = sample.sampler == "ancestral" or sample.variance is not None
    steps = (sample.steps if ancestral else None) or min(STEPS_OF["ancestral"], export.config.schedule.steps)
    caption = None
    if grid is not None:
        caption = f"{len(grid)} samples, {grid.record['sampler']} in {grid.record['steps']} steps"
    return CardFacts(
        name=name,
        shape=found.shape,
        classes=export.classes,
        origin=f"{weights}, {found.path.name}, model {found.hash(export.part)}",
        data=data_report(found.path),
        licence=licence,
        steps=steps,
        notes=export_notes(export.config),
        caption=caption,
    )


def index() -> dict[str, Any]:
    """model_index.json: the pipeline and the classes of its parts."""
    return {
        "_class_name": "DDPMPipeline",
        "_diffusers_version": DIFFUSERS_VERSION,
        "scheduler": ["diffusers", "DDPMScheduler"],
        "unet": ["diffusers", UNET_CLASS],
    }


def data_report(checkpoint: Path) -> dict[str, Any]:
    """What the run around a checkpoint says of its data; empty if the checkpoint stands alone."""
    run = RunFolder(checkpoint.parent.parent)
    return run.read("data.json") if checkpoint.parent.name == "checkpoints" else {}

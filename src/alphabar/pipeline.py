"""From a trained run to new pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import __version__
from .conditions.base import Cond
from .config import validate
from .data.load import available_memory
from .data.pictures import to_uint8
from .denoiser import Denoiser
from .errors import ConfigurationError, nearest
from .model import build_denoiser, pick_device
from .output import Samples
from .randomness import derive_seeds
from .runs.checkpoint import Checkpoint, find_checkpoint, load_weights
from .samplers.ancestral import Ancestral
from .samplers.base import SampleState, last_state, sample_states
from .samplers.clip import Clipped
from .samplers.grids import trailing_times
from .settings import SampleSettings

DEFAULT_STEPS = 250
LARGEST_BATCH = 128

StateCallback = Callable[[SampleState], None]


class Pipeline:
    """A denoiser ready to make pictures.

    `classes` are the names it can be asked for (empty if it is unconditional); `record` tells which weights it holds.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        shape: Sequence[int],
        settings: SampleSettings | None = None,
        classes: Sequence[str] = (),
        record: dict[str, Any] | None = None,
    ) -> None:
        self.denoiser = denoiser.eval()
        self.shape = tuple(shape)
        self.settings = settings or SampleSettings()
        self.classes = list(classes)
        self.record = {"alphabar": __version__} | (record or {})

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.denoiser.parameters()).device

    def with_settings(self, **changes: Any) -> Pipeline:
        """The same model with other sampling settings; None leaves one as it is. Raises ConfigurationError."""
        values = self.settings.model_dump() | {key: value for key, value in changes.items() if value is not None}
        return Pipeline(self.denoiser, self.shape, validate(SampleSettings, values), self.classes, self.record)

    @property
    def steps(self) -> int:
        """The number of reverse steps: as set, or 250, or T if that is less."""
        return self.settings.steps or min(DEFAULT_STEPS, self.denoiser.schedule.steps or DEFAULT_STEPS)

    @property
    def variance(self) -> str:
        """The variance of a reverse step: as set, or learned if the model learned it, otherwise the posterior's."""
        return self.settings.variance or ("learned" if self.denoiser.settings.learned_variance else "posterior")

    def sample(
        self,
        n: int = 16,
        seed: int = 0,
        seeds: Sequence[int] | None = None,
        label: str | Sequence[str] | None = None,
        batch: int | None = None,
        on_state: StateCallback | None = None,
    ) -> Samples:
        """n new pictures, or one for each of `seeds`. `label`: a class for all, or one each; without it the classes take turns.

        `on_state` is called with every state of every batch, for progress bars. Raises ConfigurationError for an unknown class.
        """
        chosen = list(seeds) if seeds is not None else derive_seeds(seed, n)
        parts = list(self.stream(chosen, self.choose_classes(len(chosen), label), batch, on_state))
        return Samples(
            np.concatenate([part.pictures for part in parts]),
            chosen,
            [c for part in parts for c in part.classes],
            parts[0].record,
        )

    def stream(
        self,
        seeds: Sequence[int],
        classes: Sequence[str | None],
        batch: int | None = None,
        on_state: StateCallback | None = None,
    ) -> Iterator[Samples]:
        """`sample` in batches that fit into memory, each yielded when it is done."""
        if len(self.shape) != 3:
            raise ConfigurationError(
                f"this model makes points of shape {self.shape}, not pictures; use Pipeline.states from Python"
            )
        if not seeds:
            raise ConfigurationError("there is nothing to make: give n >= 1, or at least one seed")
        batch = batch or self.fitting_batch()
        for start in range(0, len(seeds), batch):
            part = slice(start, start + batch)
            states = self.states(seeds[part], classes[part])
            last = last_state(_watched(states, on_state))
            yield Samples(to_uint8(last.x_t), list(seeds[part]), list(classes[part]), self.sampling_record())

    def states(self, seeds: Sequence[int], classes: Sequence[str | None] | None = None) -> Iterator[SampleState]:
        """The states from noise to data of one batch, as a generator that may be stopped at any time."""
        times = trailing_times(self.denoiser.schedule, self.steps)
        clipped = Clipped(self.denoiser, self.settings.clip, self.settings.dynamic_quantile)
        cond = self.encode(classes, len(seeds))
        return sample_states(Ancestral(self.variance), clipped, times, seeds, self.shape, cond, self.device)

    @torch.no_grad()
    def encode(self, classes: Sequence[str | None] | None, n: int) -> Cond:
        """The conditions of n pictures of these classes; None is the null class."""
        if not self.classes or classes is None:
            return self.denoiser.encode({}, n)
        numbers = [len(self.classes) if name is None else self.classes.index(name) for name in classes]
        return self.denoiser.encode({"label": torch.tensor(numbers)}, n)

    def choose_classes(self, n: int, label: str | Sequence[str] | None) -> list[str | None]:
        """A class name for each of n pictures. Raises ConfigurationError for a class that the model does not know."""
        if label is None:
            return [self.classes[i % len(self.classes)] if self.classes else None for i in range(n)]
        names: list[str | None] = [label] * n if isinstance(label, str) else list(label)
        if not self.classes:
            raise ConfigurationError(
                f"this model was trained without classes, so it cannot make {names[0]!r}; leave the class out, or train with --class-from"
            )
        for name in names:
            if name is not None and name not in self.classes:
                raise ConfigurationError(
                    f"the model does not know the class {name!r}; {nearest(str(name), self.classes)}"
                )
        if len(names) != n:
            raise ConfigurationError(f"{len(names)} classes for {n} pictures; give one class, or one each")
        return names

    def sampling_record(self) -> dict[str, Any]:
        """How pictures are made now, as it is written into each of them."""
        clip = self.settings.clip
        own = {"sampler": "ancestral", "steps": self.steps, "variance": self.variance, "clip": clip}
        if clip == "dynamic":
            own["dynamic_quantile"] = self.settings.dynamic_quantile
        return own | self.record

    def fitting_batch(self) -> int:
        """A batch whose activations take at most a quarter of the free memory, 128 at most: memory stays flat in n."""
        free = available_memory()
        if self.device.type == "cuda":
            free = float(torch.cuda.mem_get_info(self.device)[0])
        per_picture = activation_bytes(self.denoiser, self.shape, self.encode(None, 1))
        return int(max(1, min(LARGEST_BATCH, free / 4 // per_picture)))


def _watched(states: Iterator[SampleState], on_state: StateCallback | None) -> Iterator[SampleState]:
    for state in states:
        if on_state is not None:
            on_state(state)
        yield state


@torch.no_grad()
def activation_bytes(denoiser: Denoiser, shape: Sequence[int], cond: Cond) -> int:
    """An upper bound of what one picture needs on its way through: the size of all outputs of the network's parts together."""
    total = 0

    def count(module: nn.Module, args: Any, output: Any) -> None:
        nonlocal total
        if isinstance(output, Tensor):
            total += output.numel() * output.element_size()

    leaves = [module for module in denoiser.modules() if not list(module.children())]
    handles = [module.register_forward_hook(count) for module in leaves]
    try:
        denoiser(torch.zeros(1, *shape, device=next(denoiser.parameters()).device), 1.0, cond)
    finally:
        for handle in handles:
            handle.remove()
    return max(1, total)


def load(run: str | Path, checkpoint: str | None = None, raw_weights: bool = False, device: str = "auto") -> Pipeline:
    """The model of a run folder or of a checkpoint folder.

    checkpoint: a step, "step-N" or a folder; default: the newest. raw_weights: the weights of training instead of their average.
    Raises CheckpointError for anything that is missing, damaged or foreign.
    """
    found = find_checkpoint(Path(run), checkpoint)
    part = "model" if raw_weights else "ema"
    denoiser = restore_denoiser(found, part).to(pick_device(device))
    if found.config.train.channels_last and len(found.shape) == 3:
        denoiser = denoiser.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    label = found.config.conditions.label
    record = {"weights": "raw" if raw_weights else "ema", "model": found.hash(part), "checkpoint": found.path.name}
    return Pipeline(denoiser, found.shape, found.config.sample, label.classes if label else (), record)


def restore_denoiser(found: Checkpoint, part: str) -> Denoiser:
    """The denoiser of a checkpoint with the weights of its part "model" or "ema"."""
    denoiser = build_denoiser(found.config, found.shape)
    load_weights(denoiser, found.tensors(part), found.path / f"{part}.safetensors")
    return denoiser.requires_grad_(False)

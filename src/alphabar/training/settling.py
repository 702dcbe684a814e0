"""What only the machine and the data can settle before a training: its preset, its way to compute, and how long a step takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..data.pictures import TrainingData
from ..diffusion.denoiser import Denoiser
from ..engine.engine import Engine
from ..engine.speed import fused_fails, seconds_of, settle_way
from ..engine.ways import Way
from ..errors import ConfigurationError, DataError, unknown
from ..model import build_denoiser
from ..runs.environment import package_version
from ..settings.config import FEW_STEPS, Config
from .data import RunData
from .step import with_train

TIME_FOR_TRAINING = 0.92  # the rest of the minutes goes to previews, validation, checkpoints
UPDATE = 1.1  # about how much longer a step takes than its forward and backward passes


@dataclass(frozen=True)
class Settled:
    """A configuration with precision, kernels and threads settled, its denoiser with fresh weights, and the seconds of the forward and
    backward passes of a step. The steps stay open where only minutes are given."""

    config: Config
    denoiser: Denoiser
    engine: Engine
    seconds: float
    notes: tuple[str, ...] = ()

    @property
    def steps(self) -> int:
        """The steps that are set, or about as many as fit into the minutes."""
        train = self.config.train
        return train.steps or max(1, int(train.minutes * 60 * TIME_FOR_TRAINING / (self.seconds * UPDATE)))


def settle_preset(values: Mapping[str, Any], source: RunData) -> Settled:
    """What is trained; "auto" becomes the quick preset where the minutes are short for the small one."""
    chosen = source.config(values)
    check_before_start(chosen)
    settled = settle(chosen, source.train)
    of_minutes = chosen.train.steps is None and values.get("preset", "auto") == "auto"
    if of_minutes and chosen.preset == "small" and settled.steps < FEW_STEPS:
        return settle(source.config({**values, "preset": "quick"}), source.train)
    return settled


def settle(config: Config, data: TrainingData) -> Settled:
    """Fill in what is left open: threads, and precision and kernels by the fastest here that agree with plain float32."""
    if len(data) == 0:
        raise DataError("there is nothing to train on: all pictures are held out; lower data.held_out")
    config = with_train(config, threads=config.train.threads or torch.get_num_threads())
    train, engine = config.train, Engine.of(config.train)
    denoiser = engine.place(build_denoiser(config, data.shape)).train()
    passes = train.batch_size // train.accumulate
    seconds: dict[Way, float] = {}
    with engine.stepping():
        if len(data.shape) == 3:
            work = lambda a_picture: train.steps * train.batch_size * a_picture if train.steps else train.minutes * 60  # noqa: E731
            choice = settle_way(denoiser, data.shape, train.precision, train.kernels, work, passes)
            engine, seconds = engine.with_way(choice.way), dict(choice.seconds)
        config = with_train(config, precision=engine.way.precision, kernels=engine.way.kernels)
        a_picture = seconds.get(engine.way, math.inf)
        if not math.isfinite(a_picture):
            a_picture = seconds_of(denoiser, data.shape, engine.way, passes)
    return Settled(config, denoiser, engine, a_picture * train.batch_size)


def settle_resumed(config: Config, data: TrainingData) -> Settled:
    """A run that goes on keeps its precision, kernels and threads; where its kernels cannot be built, this part of it takes torch's own."""
    engine, notes = Engine.of(config.train), list[str]()
    if engine.way.kernels == "fused" and (why := fused_fails()):
        engine = engine.with_way(Way(engine.way.precision, "native"))
        notes.append(
            f"the run's compiled kernels cannot be used here ({why}): it goes on by torch's own, equal but for rounding"
        )
    denoiser = engine.place(build_denoiser(config, data.shape)).train()
    with engine.stepping():
        passes = config.train.batch_size // config.train.accumulate
        a_picture = seconds_of(denoiser, data.shape, engine.way, passes)
    return Settled(config, denoiser, engine, a_picture * config.train.batch_size, tuple(notes))


def check_before_start(config: Config) -> None:
    """Raise ConfigurationError for settings that would only fail once the run folder exists, or when samples are made."""
    if config.sample.variance == "learned" and not config.diffusion.learned_variance:
        raise ConfigurationError("sample.variance=learned needs diffusion.learned_variance=true")
    if config.schedule.kind != "continuous_cosine" and (config.sample.steps or 0) > config.schedule.steps:
        raise ConfigurationError(
            f"sample.steps = {config.sample.steps} is more than schedule.steps = {config.schedule.steps}"
        )
    guidance = config.sample.guidance
    for name in guidance if isinstance(guidance, dict) else ():
        if name not in config.conditions:
            raise unknown("condition in sample.guidance", name, config.conditions)
    if config.train.tensorboard and package_version("tensorboard") is None:
        raise ConfigurationError("train.tensorboard needs TensorBoard: pip install 'alphabar[tensorboard]'")

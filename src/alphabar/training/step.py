"""One training step at a time: the state of a training, and what a step does with it. Logging, previews and checkpoints belong to the caller.

A step is composed of exchangeable parts: a draw of chance, an objective, an engine that computes its gradients, and an updater that
moves the weights. Each is a function of (seed, step) and of what a checkpoint keeps, never of what the process did before. So a run
that was stopped and resumed is the run that was not, bit for bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..data.pictures import Batch, TrainingData
from ..diffusion.denoiser import Denoiser
from ..diffusion.objective import Denoising, Draw, Objective
from ..engine.engine import Engine, PartLosses
from ..errors import CheckpointError, NonFiniteError
from ..model import build_denoiser
from ..randomness import normal
from ..settings.config import Config
from .draw import Chance, dropout_of
from .times import build_time_sampler
from .updater import Updater


@dataclass(frozen=True)
class StepReport:
    """What one optimizer step did. `times` and `squared_errors` are (batch,), on the CPU: the loss by noise level."""

    step: int
    steps: int
    loss: float
    gradient_norm: float
    learning_rate: float
    times: Tensor
    squared_errors: Tensor

    def __str__(self) -> str:
        return f"step {self.step}/{self.steps}  loss {self.loss:.4f}"


class Trainer:
    """A denoiser in training, with its average and its optimizers. `step()` does one optimizer step.

    denoiser: default: that of the configuration, with fresh weights. objective: what is minimised, by default denoising. engine: how it
    is computed, by default as the configuration says.
    """

    def __init__(
        self,
        config: Config,
        data: TrainingData,
        denoiser: Denoiser | None = None,
        objective: Objective | None = None,
        engine: Engine | None = None,
    ) -> None:
        self.config, self.data = config, data
        self.engine = engine or Engine.of(config.train)
        self.objective = objective or Denoising(config.loss)
        self.denoiser = self.engine.place(denoiser or build_denoiser(config, data.shape))
        self.updater = Updater(self.denoiser, config.train)
        self.times = build_time_sampler(config.loss.times, self.denoiser.schedule)
        self.steps_done = 0
        self.whole = True  # false only while weights, optimizer, average and times are of different steps

    @property
    def chance(self) -> Chance:
        """What is drawn in each step."""
        config = self.config
        return Chance(
            config.seed,
            config.train.batch_size,
            len(self.data),
            tuple(self.data.shape),
            self.times,
            bool(config.data.flip),
            dropout_of(self.denoiser.encoders),
            config.train.drop_all,
        )

    @property
    def average(self) -> Denoiser:
        """The denoiser with the averaged weights."""
        return self.updater.ema.module

    def plan_steps(self, steps: int) -> None:
        """Set how many steps the whole training has, before the first one: the rate depends on it."""
        self.config = with_train(self.config, steps=steps)
        self.updater.train = self.config.train

    def step(self) -> StepReport:
        """One optimizer step over the whole batch. Raises NonFiniteError before any weight is touched."""
        step, draw = self.steps_done, self.chance.draw(self.steps_done)
        with self.engine.stepping(draw.dropout):
            parts = self._backward(draw)
            loss = sum(part.total for part in parts)
            minimised = torch.cat([part.minimised for part in parts])
            squared_errors = torch.cat([part.squared_errors for part in parts])
            norm = self.updater.clip_gradients()
            check_finite(step + 1, loss, norm, draw.t, squared_errors)
            self.whole = False
            rate = self.updater.update(step)
        self.times.update(draw.t, minimised)
        self.steps_done += 1
        self.whole = True
        return StepReport(self.steps_done, self.config.train.steps or 0, loss, norm, rate, draw.t, squared_errors)

    def _backward(self, draw: Draw) -> list[PartLosses]:
        """The gradients of the batch, in `accumulate` parts of it; the losses of each part."""
        self.denoiser.train()
        self.updater.zero_gradients()
        return [
            self.engine.backward(self.objective, self.denoiser, self._batch(part), part, len(draw))
            for part in parts_of(draw, self.config.train.accumulate)
        ]

    def _batch(self, draw: Draw) -> Batch:
        """The items of a draw, with the values that their conditions derive from them."""
        batch = self.data.batch(draw.items, draw.mirrored)
        return Batch(batch.x_0, self.denoiser.encoders.with_derived(batch, draw.keys))

    @torch.no_grad()
    def validation_loss(self, data: TrainingData, limit: int) -> float | None:
        """The mean squared error of the averaged weights on up to `limit` held-out items, always with the same times and noise."""
        n, seed = min(limit, len(data)), self.config.seed
        if n == 0:
            return None
        t, weight = build_time_sampler("stratified", self.denoiser.schedule).draw(n, seed, -1)
        items = np.linspace(0, len(data) - 1, n).astype(np.int64)
        keys = [(seed, "held-out", i) for i in range(n)]
        draw = Draw(items, None, t, weight, normal((n, *data.shape), seed, "held-out", 0), keys=keys)
        size = max(1, self.config.train.batch_size // self.config.train.accumulate)
        errors = []
        with self.engine.stepping():
            for part in (draw.part(slice(start, start + size)) for start in range(0, n, size)):
                batch = data.batch(part.items)
                values = self.average.encoders.with_derived(batch, part.keys)
                moved = part.with_noise(self.engine.move(part.eps))
                losses = self.objective(self.average, Batch(self.engine.move(batch.x_0), values), moved)
                errors.append(losses.squared_error.cpu())
        return float(torch.cat(errors).double().mean())

    def state(self) -> dict[str, dict[str, Tensor]]:
        """All tensors that training depends on, as a checkpoint keeps them."""
        times = {f"times.{key}": value for key, value in self.times.state_dict().items()}
        optimizer = self.updater.state() | times
        return {"model": self.denoiser.state_dict(), "ema": self.updater.ema.state_dict(), "optimizer": optimizer}

    def load_state(
        self, step: int, model: dict[str, Tensor], ema: dict[str, Tensor], optimizer: dict[str, Tensor]
    ) -> None:
        """Take back what `state` gave after `step` steps. Raises CheckpointError if it is another network's."""
        try:
            self.denoiser.load_state_dict(model)
            self.average.load_state_dict(ema)
            times = {key.removeprefix("times."): v for key, v in optimizer.items() if key.startswith("times.")}
            self.times.load_state_dict(times)
            self.updater.load_state(optimizer)
        except (RuntimeError, KeyError) as error:
            raise CheckpointError(
                f"the checkpoint's tensors do not fit this network: {str(error).splitlines()[-1].strip()}"
            ) from None
        self.steps_done = step


def parts_of(draw: Draw, parts: int) -> list[Draw]:
    """A draw in so many parts of equal size, one after the other."""
    size = -(-len(draw) // parts)
    return [draw.part(slice(start, start + size)) for start in range(0, len(draw), size)]


def with_train(config: Config, **changes: object) -> Config:
    """The configuration with other training settings."""
    return config.model_copy(update={"train": config.train.model_copy(update=changes)})


def check_finite(step: int, loss: float, norm: float, t: Tensor, squared_errors: Tensor) -> None:
    """Raise NonFiniteError if the loss or the gradient is not finite, saying at which noise levels."""
    if math.isfinite(loss) and math.isfinite(norm):
        return
    bad = t[~squared_errors.isfinite()]
    where = f"at times {', '.join(f'{v:.3f}' for v in bad[:4].tolist())}" if len(bad) else "in the gradient only"
    raise NonFiniteError(
        f"step {step}: loss {loss:g}, gradient norm {norm:g}, not finite {where}; the weights were not touched. "
        "Start anew with a lower train.learning_rate, a longer train.warm_up, train.precision=float32, or other data"
    )

"""The training loop: state, and one step at a time. Logging, previews and checkpoints belong to the caller.

Data order, flips, dropped conditions, times and noise are functions of (seed, step), and of the state that a checkpoint keeps;
never of what the process did before. So a run that was stopped and resumed is the run that was not, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ..data.pictures import Batch, compact
from ..diffusion.denoiser import Denoiser
from ..diffusion.loss import denoising_loss
from ..engine.ways import Way, with_way
from ..errors import CheckpointError, NonFiniteError
from ..machine import keep_freed_memory
from ..model import build_denoiser, pick_device
from ..randomness import generator, normal, permutation, uniform
from ..settings.config import Config
from ..settings.training import TrainSettings
from .ema import EMA
from .muon import Muon
from .times import build_time_sampler

ADAM_STATE = ("step", "exp_avg", "exp_avg_sq")


class TrainingData(Protocol):
    """What training asks of data: `PictureSet` and `PointSet` have it, and so can yours."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one x_0."""

    def __len__(self) -> int: ...

    def batch(self, indices: np.ndarray, mirrored: np.ndarray | None = None) -> Batch:
        """The items of these indices."""

    def fingerprint(self) -> str:
        """A hash of all that training sees."""


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
    """A denoiser in training, with its average and its optimizer. `step()` does one optimizer step."""

    def __init__(self, config: Config, data: TrainingData, denoiser: Denoiser | None = None) -> None:
        self.config, self.data = config, data
        self.device = pick_device(config.train.device)
        if self.device.type == "cpu":
            keep_freed_memory()
        self.denoiser = (denoiser or build_denoiser(config, data.shape)).to(self.device)
        if config.train.channels_last and len(data.shape) == 3:
            self.denoiser = self.denoiser.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.denoiser = with_way(self.denoiser, train_way(config.train))
        self.ema = EMA(self.denoiser, config.train.ema_decay)
        self.optimizer = build_optimizer(self.denoiser, config.train)
        self.times = build_time_sampler(config.loss.times, self.denoiser.schedule)
        self.has_dropout = any(isinstance(m, nn.Dropout) and m.p > 0 for m in self.denoiser.modules())
        self.steps_done = 0
        self.whole = True  # false only while weights, optimizer and average are of different steps

    def step(self) -> StepReport:
        """One optimizer step over the whole batch. Raises NonFiniteError before any weight is touched."""
        train, step = self.config.train, self.steps_done
        rate = learning_rate(train, step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.denoiser.train()
        self.optimizer.zero_grad(set_to_none=True)
        loss, t, losses, squared_errors = self._accumulate_gradients(step)
        norm = float(nn.utils.clip_grad_norm_(self.denoiser.parameters(), train.clip_norm))
        check_finite(step + 1, loss, norm, t, squared_errors)
        self.whole = False
        self.optimizer.step()
        self.times.update(t, losses)
        self.steps_done += 1
        self.ema.update(self.denoiser, self.steps_done)
        self.whole = True
        return StepReport(self.steps_done, train.steps or 0, loss, norm, rate, t, squared_errors)

    def _accumulate_gradients(self, step: int) -> tuple[float, Tensor, Tensor, Tensor]:
        """The loss of the batch; of each picture its time, its loss as it is minimised, and its squared error."""
        config, n = self.config, self.config.train.batch_size
        if self.has_dropout:
            torch.manual_seed(int(generator(config.seed, "dropout", step).integers(2**62)))
        indices = batch_indices(len(self.data), n, config.seed, step)
        mirrored = generator(config.seed, "flip", step).random(n) < 0.5 if config.data.flip else None
        t, weight = self.times.draw(n, config.seed, step)
        eps = normal((n, *self.data.shape), config.seed, "noise", step)
        drop = self._drop_masks(n, step)
        total, minimised, squared_errors = 0.0, [], []
        for part in torch.arange(n).chunk(config.train.accumulate):
            batch = self.data.batch(indices[part.numpy()], None if mirrored is None else mirrored[part.numpy()])
            keys = [(config.seed, step, i) for i in part.tolist()]
            values = with_derived(self.denoiser, batch, keys)
            cond = self.denoiser.encode(values, len(part), {name: mask[part] for name, mask in drop.items()})
            losses = denoising_loss(
                self.denoiser, self._move(batch.x_0), t[part], self._move(eps[part]), cond, config.loss
            )
            loss = (losses.total * weight[part].to(losses.total)).sum() / n
            loss.backward()
            total += float(loss.detach())
            minimised.append(losses.total.detach().cpu())
            squared_errors.append(losses.squared_error.detach().cpu())
        return total, t, torch.cat(minimised), torch.cat(squared_errors)

    def _drop_masks(self, n: int, step: int) -> dict[str, Tensor]:
        """Which conditions (n,) are hidden: each on its own, and of several also all together, as guidance starts from nothing."""
        encoders = self.denoiser.encoders.items()
        drop = {name: self._dropped(name, encoder.dropout, n, step) for name, encoder in encoders}
        if len(drop) > 1 and self.config.train.drop_all:
            together = self._dropped("", self.config.train.drop_all, n, step)
            drop = {name: mask | together for name, mask in drop.items()}
        return drop

    def _dropped(self, name: str, probability: float, n: int, step: int) -> Tensor:
        return uniform([n], self.config.seed, "drop", name, step) < probability

    def _move(self, x: Tensor) -> Tensor:
        x = x.to(self.device)
        return x.contiguous(memory_format=torch.channels_last) if self.config.train.channels_last and x.ndim == 4 else x

    @torch.no_grad()
    def validation_loss(self, data: TrainingData, limit: int) -> float | None:
        """The simple loss of the averaged weights on up to `limit` held-out items, always with the same times and noise."""
        n = min(limit, len(data))
        if n == 0:
            return None
        t, _ = build_time_sampler("stratified", self.denoiser.schedule).draw(n, self.config.seed, -1)
        eps = normal((n, *data.shape), self.config.seed, "held-out", 0)
        indices, errors = np.linspace(0, len(data) - 1, n).astype(np.int64), []
        for part in torch.arange(n).split(max(1, self.config.train.batch_size // self.config.train.accumulate)):
            batch = data.batch(indices[part.numpy()])
            values = with_derived(self.ema.module, batch, [(self.config.seed, "held-out", i) for i in part.tolist()])
            cond = self.ema.module.encode(values, len(part))
            loss = denoising_loss(
                self.ema.module, self._move(batch.x_0), t[part], self._move(eps[part]), cond, self.config.loss
            )
            errors.append(loss.squared_error.cpu())
        return float(torch.cat(errors).double().mean())

    def state(self) -> dict[str, dict[str, Tensor]]:
        """All tensors that training depends on, as a checkpoint keeps them."""
        optimizer = {f"{key}.{name}": value for name, state in self._optimizer_states() for key, value in state.items()}
        optimizer |= {f"times.{key}": value for key, value in self.times.state_dict().items()}
        return {"model": self.denoiser.state_dict(), "ema": self.ema.state_dict(), "optimizer": optimizer}

    def load_state(
        self, step: int, model: dict[str, Tensor], ema: dict[str, Tensor], optimizer: dict[str, Tensor]
    ) -> None:
        """Take back what `state` gave after `step` steps. Raises CheckpointError if it is another network's."""
        try:
            self.denoiser.load_state_dict(model)
            self.ema.module.load_state_dict(ema)
            self.times.load_state_dict(
                {key.removeprefix("times."): v for key, v in optimizer.items() if key.startswith("times.")}
            )
            for name, parameter in self.denoiser.named_parameters():
                if not parameter.requires_grad:
                    continue
                self.optimizer.state[parameter] = {
                    key: _like(optimizer[f"{key}.{name}"], parameter) for key in self._state_names(parameter)
                }
        except (RuntimeError, KeyError) as error:
            raise CheckpointError(
                f"the checkpoint's tensors do not fit this network: {str(error).splitlines()[-1].strip()}"
            ) from None
        self.steps_done = step

    def _state_names(self, parameter: nn.Parameter) -> tuple[str, ...]:
        muon = isinstance(self.optimizer, Muon) and any(parameter is p for p in self.optimizer.matrices)
        return ("momentum",) if muon else ADAM_STATE

    def _optimizer_states(self) -> list[tuple[str, dict[str, Tensor]]]:
        return [
            (name, self.optimizer.state[p]) for name, p in self.denoiser.named_parameters() if p in self.optimizer.state
        ]


def with_derived(denoiser: Denoiser, batch: Batch, keys: Sequence[tuple[Any, ...]]) -> dict[str, Any]:
    """The values of a batch's conditions, those that are made from its pictures included; a key a picture fixes what is random."""
    made = {
        name: encoder.derive(batch.x_0, [(*key, "condition", name) for key in keys])
        for name, encoder in denoiser.encoders.items()
        if encoder.derived
    }
    return {**batch.cond, **made}


def train_way(train: TrainSettings) -> Way:
    """How the network is computed in training; what is left to "auto" is plain here, as nothing was measured."""
    precision = "float32" if train.precision == "auto" else train.precision
    return Way(precision, "native" if train.kernels == "auto" else train.kernels)


def _like(value: Tensor, parameter: Tensor) -> Tensor:
    """A saved tensor with its parameter's device and memory layout; a step count stays a scalar."""
    if value.ndim == 0:
        return value.to(parameter.device, copy=True)
    return torch.empty_like(parameter).copy_(value)


def build_optimizer(module: nn.Module, train: TrainSettings) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019), or Muon."""
    if train.optimizer == "muon":
        return Muon(module, train.learning_rate, train.weight_decay)
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(trained, lr=train.learning_rate, weight_decay=train.weight_decay, fused=True)


def learning_rate(train: TrainSettings, step: int) -> float:
    """The rate of the optimizer step after `step` done ones: linear warm-up, then constant or a cosine to 0 at train.steps."""
    warm = min(1.0, (step + 1) / (train.warm_up + 1))
    if train.rate == "constant" or train.steps is None:
        return train.learning_rate * warm
    progress = min(1.0, max(0, step - train.warm_up) / max(1, train.steps - train.warm_up))
    return train.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * progress))


def batch_indices(n: int, batch: int, seed: int, step: int) -> np.ndarray:
    """The indices (batch,) of step number `step` (from 0): each epoch is a new order of all n, cut into batches without a gap."""
    positions = np.arange(step * batch, (step + 1) * batch)
    epochs = positions // n
    parts = [epoch_order(n, seed, int(epoch))[positions[epochs == epoch] % n] for epoch in np.unique(epochs)]
    return np.concatenate(parts, dtype=np.int64)


@lru_cache(maxsize=2)  # a batch may lie across the end of an epoch; of a large set each takes megabytes
def epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """The order (n,) of an epoch."""
    return compact(permutation(n, seed, "epoch", epoch), n)


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

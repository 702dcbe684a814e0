"""What moves the weights: the optimizers with their rate and clipping, and the average that follows."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..diffusion.denoiser import Denoiser
from ..engine.speed import synchronize
from ..settings.training import TrainSettings
from .ema import EMA
from .muon import Muon, list_matrices

ADAM_STATE = ("step", "exp_avg", "exp_avg_sq")


class Updater:
    """The optimizers and the average of a denoiser's weights. `update(step)` does one step with the gradients that are there."""

    def __init__(self, denoiser: Denoiser, train: TrainSettings) -> None:
        self.denoiser, self.train = denoiser, train
        self.optimizers = build_optimizers(denoiser, train)
        self.ema = EMA(denoiser, train.ema_decay)

    def zero_gradients(self) -> None:
        """Forget the gradients of the step before."""
        for parameter in self.denoiser.parameters():
            parameter.grad = None

    def clip_gradients(self) -> float:
        """Scale the gradients down to `clip_norm` together; returns their norm before."""
        return float(nn.utils.clip_grad_norm_(self.denoiser.parameters(), self.train.clip_norm))

    def update(self, step: int) -> float:
        """Move weights and average, after `step` steps that were done before; returns the learning rate."""
        rate = learning_rate(self.train, step)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
        self.ema.update(self.denoiser, step + 1)
        return rate

    def rehearse(self) -> float:
        """Seconds of an update, by one at rate 0 and without gradients, which changes nothing. Only before the first step."""
        for parameter in self.denoiser.parameters():
            parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
        for _ in range(2):  # the first one also makes room for the state
            synchronize(next(self.denoiser.parameters()).device)
            began = time.perf_counter()
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = 0.0
                optimizer.step()
            self.ema.update(self.denoiser, 1)
            synchronize(next(self.denoiser.parameters()).device)
        seconds = time.perf_counter() - began
        for optimizer in self.optimizers:
            optimizer.state.clear()
        self.zero_gradients()
        return seconds

    def state(self) -> dict[str, Tensor]:
        """The tensors of the optimizers, "exp_avg.NAME" for a parameter's name."""
        return {f"{key}.{name}": value for name, state in self._states() for key, value in state.items()}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `state` gave. Raises KeyError for what is missing."""
        names = {id(parameter): name for name, parameter in self.denoiser.named_parameters()}
        for optimizer in self.optimizers:
            keys = ("momentum",) if isinstance(optimizer, Muon) else ADAM_STATE
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    name = names[id(parameter)]
                    optimizer.state[parameter] = {key: as_saved(tensors[f"{key}.{name}"], parameter) for key in keys}

    def _states(self) -> Iterator[tuple[str, dict[str, Tensor]]]:
        for name, parameter in self.denoiser.named_parameters():
            for optimizer in self.optimizers:
                if parameter in optimizer.state:
                    yield name, optimizer.state[parameter]


def as_saved(value: Tensor, parameter: Tensor) -> Tensor:
    """A saved tensor with its parameter's device and memory layout; a step count stays a scalar."""
    if value.ndim == 0:
        return value.to(parameter.device, copy=True)
    return torch.empty_like(parameter).copy_(value)


def build_optimizers(module: nn.Module, train: TrainSettings) -> list[torch.optim.Optimizer]:
    """AdamW (Loshchilov & Hutter 2019) for all trained parameters, or Muon for the inner matrices and AdamW for the others."""
    matrices = list_matrices(module) if train.optimizer == "muon" else []
    taken = {id(matrix) for matrix in matrices}
    others = [p for p in module.parameters() if p.requires_grad and id(p) not in taken]
    optimizers: list[torch.optim.Optimizer] = []
    if matrices:
        optimizers.append(Muon(matrices, train.learning_rate, train.weight_decay))
    if others:
        optimizers.append(
            torch.optim.AdamW(others, lr=train.learning_rate, weight_decay=train.weight_decay, fused=True)
        )
    return optimizers


def learning_rate(train: TrainSettings, step: int) -> float:
    """The rate of the optimizer step after `step` done ones: linear warm-up, then constant or a cosine to 0 at train.steps."""
    warm = min(1.0, (step + 1) / (train.warm_up + 1))
    if train.rate == "constant" or train.steps is None:
        return train.learning_rate * warm
    progress = min(1.0, max(0, step - train.warm_up) / max(1, train.steps - train.warm_up))
    return train.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * progress))

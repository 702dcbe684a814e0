"""Where and how a training step is computed: the device, the memory format, the way of the network, the backward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..data.pictures import Batch
from ..diffusion.denoiser import Denoiser
from ..diffusion.objective import Draw, Objective
from ..machine import pick_device, threads
from ..settings.training import TrainSettings
from .ways import PLAIN, Way, with_way


@dataclass(frozen=True)
class PartLosses:
    """The losses of a part of a batch, detached and on the CPU: their weighted sum, each as it is minimised, each squared error."""

    total: float
    minimised: Tensor
    squared_errors: Tensor


@dataclass(frozen=True)
class Engine:
    """Computes the gradients of an objective. It holds no state of training, so that one engine can take the place of another."""

    device: torch.device
    way: Way = PLAIN
    channels_last: bool = True
    threads: int | None = None

    @classmethod
    def of(cls, train: TrainSettings) -> Engine:
        """The engine of the settings, "auto" being plain float32."""
        precision = "float32" if train.precision == "auto" else train.precision
        kernels = "native" if train.kernels == "auto" else train.kernels
        return cls(pick_device(train.device), Way(precision, kernels), train.channels_last, train.threads)

    def place(self, denoiser: Denoiser) -> Denoiser:
        """The denoiser on the device, in the memory format, and computed in the engine's way; its parameters stay the same objects."""
        denoiser = denoiser.to(self.device)
        if self.channels_last:  # only parameters of four axes have this format
            denoiser = denoiser.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return with_way(denoiser, self.way)

    def with_way(self, way: Way) -> Engine:
        """The same engine with another way to compute networks."""
        return replace(self, way=way)

    def move(self, x: Tensor) -> Tensor:
        """Data on the device, in the memory format."""
        x = x.to(self.device)
        return x.contiguous(memory_format=torch.channels_last) if self.channels_last and x.ndim == 4 else x

    def backward(self, objective: Objective, denoiser: Denoiser, batch: Batch, draw: Draw, n: int) -> PartLosses:
        """Add the gradients of a part of a batch of n items to those of the parameters; its losses."""
        moved = Batch(self.move(batch.x_0), batch.cond)
        losses = objective(denoiser, moved, draw.with_noise(self.move(draw.eps)))
        loss = (losses.total * draw.weight.to(losses.total)).sum() / n
        loss.backward()
        return PartLosses(float(loss.detach()), losses.total.detach().cpu(), losses.squared_error.detach().cpu())

    @contextmanager
    def stepping(self, dropout: int | None = None) -> Iterator[None]:
        """A block that computes with the engine's threads, and what networks drop drawn from this seed; the process is left as it was."""
        with threads(self.threads):
            if dropout is None:
                yield
                return
            devices = [self.device] if self.device.type == "cuda" else []
            with torch.random.fork_rng(devices=devices):
                torch.manual_seed(dropout)
                yield

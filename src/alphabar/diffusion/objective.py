"""Objectives: what a training step minimises. objective(denoiser, batch, draw) -> the losses of the batch, one an item.

An objective sees a denoiser, the data of a batch and the draw of the step, and nothing else of training. Another objective, such as
that of a student, is another callable of this signature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from ..data.pictures import Batch
from ..settings.base import LossSettings
from .denoiser import Denoiser
from .loss import Losses, denoising_loss


@dataclass(frozen=True)
class Draw:
    """All that chance decides in a step, for its n items: a function of (seed, step, item) and of the state of the times' distribution.

    items: the indices (n,) of the data. mirrored (n,) bool, or None if nothing is. t, weight (n,): times in (0, 1] and the weights of
    their losses, float64 on the CPU. eps (n, ...): the noise. dropped: by condition, which items (n,) bool hide it. keys: of each item,
    the key of what its derived conditions draw. dropout: the seed of the network's dropout in this step. step: the number of steps that
    were done before.
    """

    items: np.ndarray
    mirrored: np.ndarray | None
    t: Tensor
    weight: Tensor
    eps: Tensor
    dropped: Mapping[str, Tensor] = field(default_factory=dict)
    keys: Sequence[tuple[Any, ...]] = ()
    dropout: int = 0
    step: int = 0

    def __len__(self) -> int:
        return len(self.t)

    def with_noise(self, eps: Tensor) -> Draw:
        """The same draw with its noise on another device."""
        return replace(self, eps=eps)

    def part(self, which: slice) -> Draw:
        """The draw of some of the items."""
        return Draw(
            self.items[which],
            None if self.mirrored is None else self.mirrored[which],
            self.t[which],
            self.weight[which],
            self.eps[which],
            {name: mask[which] for name, mask in self.dropped.items()},
            self.keys[which],
            self.dropout,
            self.step,
        )


class Objective(Protocol):
    """What training minimises."""

    def __call__(self, denoiser: Denoiser, batch: Batch, draw: Draw) -> Losses:
        """The losses (n,) of a batch, before they are weighted by `draw.weight` and averaged. batch and draw.eps are on the device."""


@dataclass(frozen=True)
class Denoising:
    """The weighted squared error on the target, and with a learned variance the bound's terms: `loss.denoising_loss`."""

    settings: LossSettings

    def __call__(self, denoiser: Denoiser, batch: Batch, draw: Draw) -> Losses:
        """The losses of a batch."""
        cond = denoiser.encode(batch.cond, len(draw), draw.dropped)
        return denoising_loss(denoiser, batch.x_0, draw.t, draw.eps, cond, self.settings)

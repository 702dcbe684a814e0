"""What chance decides in a training step: a pure function of (seed, step, item), and of the times' distribution that a checkpoint keeps.

An item is a place in the batch of all processes together, so that its draw does not depend on how a batch is divided.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from torch import Tensor

from ..conditions.base import Encoders
from ..data.pictures import compact
from ..diffusion.objective import Draw
from ..randomness import generator, normal_rows, permutation, uniform
from .times import TimeSampler


@dataclass(frozen=True)
class Chance:
    """The chance of a training: `draw(step)` gives that of a step.

    n: items of a batch. count, shape: of the data. flip: whether half of the items are mirrored. dropout: by condition, the probability
    that it is hidden; drop_all: that all of several are hidden together, as guidance starts from nothing.
    """

    seed: int
    n: int
    count: int
    shape: tuple[int, ...]
    times: TimeSampler
    flip: bool = False
    dropout: Mapping[str, float] | None = None
    drop_all: float = 0.0

    def draw(self, step: int) -> Draw:
        """All that chance decides in step number `step`, from 0."""
        seed, n = self.seed, self.n
        t, weight = self.times.draw(n, seed, step)
        return Draw(
            items=batch_indices(self.count, n, seed, step),
            mirrored=generator(seed, "flip", step).random(n) < 0.5 if self.flip else None,
            t=t,
            weight=weight,
            eps=normal_rows(self.shape, [(seed, "noise", i, step) for i in range(n)]),
            dropped=self.dropped(step),
            keys=[(seed, step, i) for i in range(n)],
            dropout=int(generator(seed, "dropout", step).integers(2**62)),
            step=step,
        )

    def dropped(self, step: int) -> dict[str, Tensor]:
        """Which items (n,) bool hide each condition: each on its own, and of several also all together."""
        masks = {name: self._hidden(name, share, step) for name, share in (self.dropout or {}).items()}
        if len(masks) > 1 and self.drop_all:
            together = self._hidden("", self.drop_all, step)
            masks = {name: mask | together for name, mask in masks.items()}
        return masks

    def _hidden(self, name: str, probability: float, step: int) -> Tensor:
        # number i of a stream is the same however many are drawn, so that an item's own does not depend on the batch
        return uniform([self.n], self.seed, "drop", name, step) < probability


def dropout_of(encoders: Encoders) -> dict[str, float]:
    """The probability of each condition to be hidden."""
    return {name: encoder.dropout for name, encoder in encoders.items()}


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

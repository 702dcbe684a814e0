"""The contract of conditions: an encoder turns the values of one kind of input into its part of `Cond`, and owns its null value."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ..data.pictures import Batch
from ..errors import unknown
from ..networks.cond import Cond, Doors, merge
from ..settings.conditions import ConditionSettings


@dataclass(frozen=True)
class Sizes:
    """What an encoder must know to fit: the shape of x_0, and the lengths of the network's vector and of its tokens."""

    shape: tuple[int, ...]
    vector_dim: int
    token_dim: int


class Encoder(nn.Module, ABC):
    """How the values of one kind of condition become a part of `Cond`, and how they are read from what a user asks for.

    A kind is a file of its own with its `data.readers.Reader` and its encoder, and a line in `kinds.KINDS`. Values of n pictures are
    a numpy array (n, ...), strings being an array of objects. The null value stands for "not given"; its owner says whether it is
    learned or zero.
    """

    derived = False
    """Whether values are made from the picture itself while training, by `derive`."""

    def __init__(self, settings: ConditionSettings) -> None:
        super().__init__()
        self.dropout = settings.dropout

    @classmethod
    def doors(cls, settings: Any, shape: Sequence[int]) -> Doors:
        """The doors that it needs beyond `vector`, for x_0 of this shape. Raises ConfigurationError where it cannot work."""
        return Doors()

    @abstractmethod
    def read(self, inputs: Sequence[Any], notes: list[str]) -> np.ndarray:
        """The values of what a user asks for, one input a picture, None being null; what was changed on the way goes to notes.

        Raises ConfigurationError or DataError, naming what is accepted.
        """

    @abstractmethod
    def forward(self, values: np.ndarray | Tensor | None, n: int, drop: Tensor | None = None) -> Cond:
        """Encode n conditions; None stands for n null ones, and drop (n,) bool marks those that become null."""

    def derive(self, x_0: Tensor, keys: Sequence[tuple[Any, ...]]) -> np.ndarray:
        """Values made from x_0 (n, C, H, W), for a kind that `derives`; what is random in them is a function of each picture's key."""
        raise NotImplementedError(f"{type(self).__name__} derives its values, so it needs a method derive")

    def finish(self, pictures: Tensor, values: np.ndarray) -> Tensor:
        """The new pictures x_0 (n, C, H, W) with what the condition prescribes exactly."""
        return pictures

    def show(self, values: np.ndarray) -> tuple[np.ndarray | None, list[str] | None]:
        """For people: the values as pictures (n, H, W, 3) uint8, or as a short text each; None for what they are not."""
        return None, [str(value) for value in values]

    @property
    def device(self) -> torch.device:
        """Where its parameters are, or the CPU if it has none."""
        return next((p.device for p in self.parameters()), torch.device("cpu"))


class Encoders(nn.Module):
    """The encoders of a model by name, as one module: saved, averaged and moved with the network."""

    def __init__(self, encoders: Mapping[str, Encoder]) -> None:
        super().__init__()
        self.kinds = nn.ModuleDict(encoders)

    def items(self) -> list[tuple[str, Encoder]]:
        """The encoders by name, in the order in which guidance nests."""
        return [(name, cast(Encoder, kind)) for name, kind in self.kinds.items()]

    def __getitem__(self, name: str) -> Encoder:
        if name not in self.kinds:
            raise unknown("condition", name, self.kinds)
        return cast(Encoder, self.kinds[name])

    def with_derived(self, batch: Batch, keys: Sequence[tuple[Any, ...]]) -> dict[str, Any]:
        """The values of a batch's conditions, those that are made from its pictures included; a key a picture fixes what is random."""
        derived = {
            name: encoder.derive(batch.x_0, [(*key, "condition", name) for key in keys])
            for name, encoder in self.items()
            if encoder.derived
        }
        return {**batch.cond, **derived}

    def forward(self, values: Mapping[str, Any], n: int, drop: Mapping[str, Tensor] | None = None) -> Cond:
        """Encode what is given and take the null value of what is not. Raises ConfigurationError for a kind without encoder."""
        for name in values:
            self[name]
        return merge(kind(values.get(name), n, (drop or {}).get(name)) for name, kind in self.items())


def hide(tensor: Tensor, drop: Tensor | None, null: Tensor | float = 0.0) -> Tensor:
    """tensor (n, ...) with the rows that drop (n,) bool marks replaced by the null value."""
    if drop is None:
        return tensor
    mask = drop.to(tensor.device).reshape(-1, *[1] * (tensor.ndim - 1))
    return torch.where(mask, torch.as_tensor(null, dtype=tensor.dtype, device=tensor.device), tensor)

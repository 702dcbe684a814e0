"""The contract between conditions and networks: a network knows the doors of `Cond`, never the kinds behind them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

from ..errors import unknown


@dataclass(frozen=True)
class Cond:
    """What the encoders hand to a network, one door a field; None where no condition uses the door.

    vector (N, D): added to the time embedding, D being the network's `vector_dim`.
    """

    vector: Tensor | None = None


class Encoder(nn.Module, ABC):
    """Turns a batch of one kind of condition into its part of `Cond`."""

    dropout: float

    @abstractmethod
    def forward(self, value: Tensor | None, n: int, drop: Tensor | None = None) -> Cond:
        """Encode n conditions; None stands for n null ones, and drop (n,) bool marks those that become null."""


class Encoders(nn.Module):
    """The encoders of a model by name, as one module: saved, averaged and moved with the network."""

    def __init__(self, encoders: Mapping[str, Encoder]) -> None:
        super().__init__()
        self.kinds = nn.ModuleDict(encoders)

    def items(self) -> list[tuple[str, Encoder]]:
        """The encoders by name."""
        return [(name, cast(Encoder, kind)) for name, kind in self.kinds.items()]

    def forward(self, values: Mapping[str, Tensor], n: int, drop: Mapping[str, Tensor] | None = None) -> Cond:
        """Encode what is given and take the null value of what is not. Raises ConfigurationError for a kind without encoder."""
        for name in values:
            if name not in self.kinds:
                raise unknown("condition", name, self.kinds)
        return merge(kind(values.get(name), n, (drop or {}).get(name)) for name, kind in self.items())


def merge(parts: Iterable[Cond]) -> Cond:
    """One Cond from the parts of several encoders: vectors are summed."""
    vectors = [part.vector for part in parts if part.vector is not None]
    return Cond(vector=sum(vectors[1:], start=vectors[0]) if vectors else None)

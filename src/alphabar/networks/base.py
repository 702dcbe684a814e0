"""The contract of networks, and the kinds of networks by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, ClassVar

from torch import Tensor, nn

from ..errors import ConfigurationError
from .cond import Cond, Doors

DOORS = tuple(field.name for field in fields(Cond) if field.name != "token_mask")


class Network(nn.Module, ABC):
    """network(x (N, C, ...), time (N,), cond) -> (N, out, ...): predicts from noisy data, the time and the conditions.

    A network of one's own subclasses it and is made known by `alphabar.networks.register`. It says:

    doors_in: the fields of `Cond` that it reads, out of "vector", "tokens", "modulation" and "concat".
    vector_dim, token_dim: the length of `cond.vector`, and of a token of `cond.tokens`.
    """

    doors_in: ClassVar[frozenset[str]] = frozenset({"vector"})
    vector_dim: int
    token_dim: int

    @classmethod
    def build(cls, settings: Any, shape: Sequence[int], out_channels: int, doors: Doors) -> Network:
        """A network with fresh weights for x of this shape, (C, H, W) or (D,), and the doors of a model's conditions."""
        return cls(settings, shape[0], out_channels, doors)

    @classmethod
    def check_shape(cls, settings: Any, shape: Sequence[int]) -> None:
        """Raise ConfigurationError for a shape of x that these settings cannot serve."""

    @abstractmethod
    def forward(self, x: Tensor, time: Tensor, cond: Cond) -> Tensor:
        """Predict from the noisy data, the time and the conditions."""

    @abstractmethod
    def ends(self) -> tuple[nn.Module, ...]:
        """The first and the last layer, whose sides are data and not features: an optimizer of hidden matrices leaves them alone."""


def check_doors(kind: str, network: type[Network], doors: Doors) -> None:
    """Raise ConfigurationError where a model's conditions need a door that the network does not have."""
    needed = {name for name in ("tokens", "modulation", "concat") if getattr(doors, name)}
    missing = sorted(needed - network.doors_in)
    if missing:
        raise ConfigurationError(
            f"network.kind={kind} takes conditions by {' and '.join(sorted(network.doors_in)) or 'no door'} only, these need {', '.join(missing)}; "
            "use network.kind=unet, or leave the condition out (--cond)"
        )


def end_weights(network: nn.Module) -> set[nn.Parameter]:
    """The parameters of a network's end layers, none of a module that does not name them.

    They are parameters and not layers, as a network that is computed another way has the same parameters in other layers.
    """
    ends = getattr(network, "ends", None)
    return {parameter for layer in ends() for parameter in layer.parameters()} if callable(ends) else set()

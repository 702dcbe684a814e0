"""The contract between conditions and networks: a network knows the doors of `Cond`, never the kinds behind them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.sources import Catalogue, PictureFile
from ..errors import unknown
from ..settings.conditions import KindSettings


@dataclass(frozen=True)
class Cond:
    """What the encoders hand to a network, one door a field; None where no condition uses the door.

    vector (N, D): added to the time embedding, D being the network's `vector_dim`.
    tokens (N, L, E): attended to, E being the network's `token_dim`; token_mask (N, L) bool is true where a token counts.
    modulation (N, M, H, W): scales and shifts the normalised features place by place. concat (N, K, H, W): more input channels.
    """

    vector: Tensor | None = None
    tokens: Tensor | None = None
    token_mask: Tensor | None = None
    modulation: Tensor | None = None
    concat: Tensor | None = None


@dataclass(frozen=True)
class Doors:
    """How wide the doors are that a model's encoders use: channels of `concat` and of `modulation`, and whether tokens come."""

    concat: int = 0
    modulation: int = 0
    tokens: bool = False

    def __add__(self, other: Doors) -> Doors:
        return Doors(self.concat + other.concat, self.modulation + other.modulation, self.tokens or other.tokens)


@dataclass(frozen=True)
class Sizes:
    """What an encoder must know to fit: the shape of x_0, and the lengths of the network's vector and of its tokens."""

    shape: tuple[int, ...]
    vector_dim: int
    token_dim: int


@dataclass(frozen=True)
class Offer:
    """What data offers for a condition: where it comes from, in words, and how to read the value of one picture.

    `read(file, (height, width))` raises DataError where this picture has none: it is then left out and named in the report.
    """

    origin: str
    read: Callable[[PictureFile, tuple[int, int]], Any]
    settings: Any
    """The condition's settings with what was found on the way filled in."""
    present: Callable[[PictureFile], bool] = lambda file: True
    """Whether there seems to be a value for a picture, without reading it."""


class Encoder(nn.Module, ABC):
    """One kind of condition: how its values are read from data and from the user, and how they become a part of `Cond`.

    A kind is a subclass in a file of its own and a line in `kinds.KINDS`. Values of n pictures are a numpy array (n, ...),
    strings being an array of objects. The null value stands for "not given"; its owner says whether it is learned or zero.
    """

    Settings: ClassVar[type[KindSettings]] = KindSettings
    needs: ClassVar[str] = "a column of the metadata"
    """What data must have for it, for the error when there is nothing."""
    mirrors: ClassVar[bool] = True
    """Whether a mirrored picture keeps its value (mirrored with it, if it is a picture)."""
    pictorial: ClassVar[bool] = False
    """Whether its values are pictures or maps (n, H, W, C), which are mirrored with the picture."""

    def __init__(self, settings: KindSettings) -> None:
        super().__init__()
        self.dropout = settings.dropout
        self.derived = self.derives(settings)

    @classmethod
    def derives(cls, settings: Any) -> bool:
        """Whether values are made from the picture itself while training (`derive`) instead of being read from data."""
        return False

    @classmethod
    def folders(cls, name: str, settings: Any) -> Collection[str]:
        """Folders of the data that hold values of this condition and no pictures to train on."""
        return ()

    @classmethod
    def mirrored_indices(cls, settings: Any) -> np.ndarray | None:
        """What each index (256,) of a map becomes in a mirrored picture, None if it stays."""
        return None

    @classmethod
    def offer(cls, name: str, settings: Any, catalogue: Catalogue) -> Offer | None:
        """What the data has for a condition of this name and these settings, or None."""
        return None

    @classmethod
    def settle(cls, settings: Any, values: np.ndarray) -> Any:
        """The settings with what only the data's values (N, ...) tell filled in."""
        return settings

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

    def forward(self, values: Mapping[str, Any], n: int, drop: Mapping[str, Tensor] | None = None) -> Cond:
        """Encode what is given and take the null value of what is not. Raises ConfigurationError for a kind without encoder."""
        for name in values:
            self[name]
        return merge(kind(values.get(name), n, (drop or {}).get(name)) for name, kind in self.items())


def merge(parts: Iterable[Cond]) -> Cond:
    """One Cond from the parts of several encoders: vectors are summed, all else stands side by side."""
    parts = list(parts)
    vectors = [part.vector for part in parts if part.vector is not None]
    return Cond(
        vector=sum(vectors[1:], start=vectors[0]) if vectors else None,
        tokens=_beside([part.tokens for part in parts]),
        token_mask=_beside([part.token_mask for part in parts]),
        modulation=_beside([part.modulation for part in parts]),
        concat=_beside([part.concat for part in parts]),
    )


def _beside(tensors: Sequence[Tensor | None]) -> Tensor | None:
    present = [tensor for tensor in tensors if tensor is not None]
    return torch.cat(present, dim=1) if present else None


def stack(conds: Sequence[Cond]) -> Cond:
    """The conditions of several batches of one model as those of one batch; shorter token sequences are padded and masked."""
    length = max((cond.tokens.shape[1] for cond in conds if cond.tokens is not None), default=0)

    def join(name: str) -> Tensor | None:
        """This field of all of them."""
        tensors = [getattr(cond, name) for cond in conds]
        if any(tensor is None for tensor in tensors):
            return None
        if name in ("tokens", "token_mask"):
            tensors = [F.pad(t, (0, 0) * (t.ndim - 2) + (0, length - t.shape[1])) for t in tensors]
        return torch.cat(tensors)

    return Cond(**{name: join(name) for name in Cond.__dataclass_fields__})


def hide(tensor: Tensor, drop: Tensor | None, null: Tensor | float = 0.0) -> Tensor:
    """tensor (n, ...) with the rows that drop (n,) bool marks replaced by the null value."""
    if drop is None:
        return tensor
    mask = drop.to(tensor.device).reshape(-1, *[1] * (tensor.ndim - 1))
    return torch.where(mask, torch.as_tensor(null, dtype=tensor.dtype, device=tensor.device), tensor)

"""The doors of a network: what conditions hand to it. A network knows the doors of `Cond`, never the kinds of conditions behind them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


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

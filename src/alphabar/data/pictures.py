"""A set of pictures as one uint8 array, and batches of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, overload

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """What a training step sees: x_0 (n, ...) float32, and the values of the conditions by name, n of each."""

    x_0: Tensor
    cond: Mapping[str, Any] = field(default_factory=dict)


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
class Rows:
    """Some rows of an array (N, ...), fetched when they are asked for, so that a memory-mapped array stays on the disk."""

    array: np.ndarray
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that the rows would have as an array."""
        return len(self), *self.array.shape[1:]

    def __getitem__(self, which: np.ndarray | slice) -> np.ndarray:
        return self.array[self.indices[which]]


class Numbered(Sequence[str]):
    """The names "#7" of pictures of an array, made when they are asked for: written out, those of a million take 70 MB.

    indices: of these pictures in the array, or how many there are, which is all of them.
    """

    def __init__(self, indices: np.ndarray | int) -> None:
        self.indices = indices

    def __len__(self) -> int:
        return self.indices if isinstance(self.indices, int) else len(self.indices)

    @overload
    def __getitem__(self, which: int) -> str: ...
    @overload
    def __getitem__(self, which: slice) -> list[str]: ...
    def __getitem__(self, which: int | slice) -> str | list[str]:
        chosen = range(len(self))[which]
        if isinstance(chosen, range):
            return [self[i] for i in chosen]
        return f"#{chosen if isinstance(self.indices, int) else self.indices[chosen]}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def __repr__(self) -> str:
        return f"Numbered({self.indices})"

    __hash__ = None  # type: ignore[assignment]


def chosen_names(names: Sequence[str], indices: np.ndarray) -> Sequence[str]:
    """Those of these indices; of an array that is whole, nothing but the indices is kept."""
    if isinstance(names, Numbered) and isinstance(names.indices, int):
        return Numbered(indices)
    return [names[i] for i in indices]


def compact(indices: np.ndarray, n: int) -> np.ndarray:
    """Indices into n things in four bytes each where that is enough: a set keeps some for every picture."""
    return indices.astype(np.int32) if n <= 2**31 else indices


@dataclass(frozen=True)
class PictureSet:
    """pictures (N, H, W, C) uint8, in memory or memory-mapped; labels (N,) int64 into `classes`, or None; a name each.

    values: what other conditions have of each picture, N of each. pictorial: the names of those values that are pictures or maps
    (N, H, W, C) and are mirrored with the picture; None: the uint8 values of the pictures' own height and width.
    swaps: of a map, its indices (256,) in a mirrored picture. fixed (N,) bool: pictures that are never mirrored.
    """

    pictures: np.ndarray | Rows
    labels: np.ndarray | None = None
    classes: list[str] = field(default_factory=list)
    names: Sequence[str] = field(default_factory=list)
    values: Mapping[str, np.ndarray | Rows] = field(default_factory=dict)
    swaps: Mapping[str, np.ndarray] = field(default_factory=dict)
    fixed: np.ndarray | None = None
    pictorial: frozenset[str] | None = None

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one picture as networks see it: (C, H, W)."""
        height, width, channels = self.pictures.shape[1:]
        return channels, height, width

    def batch(self, indices: np.ndarray, mirrored: np.ndarray | None = None) -> Batch:
        """The pictures of these indices in [-1, 1] with their conditions, those marked in `mirrored` (n,) bool flipped left to right."""
        if mirrored is not None and self.fixed is not None:
            mirrored = mirrored & ~self.fixed[indices]
        cond: dict[str, Any] = {} if self.labels is None else {"class": torch.from_numpy(self.labels[indices])}
        for name, values in self.values.items():
            part = values[indices]
            cond[name] = mirror(part, mirrored, self.swaps.get(name)) if self.is_pictorial(name, part) else part
        return Batch(to_signed(mirror(self.pictures[indices], mirrored)), cond)

    def is_pictorial(self, name: str, values: np.ndarray) -> bool:
        """Whether these values (n, ...) of a condition are pictures or maps."""
        if self.pictorial is not None:
            return name in self.pictorial
        return values.dtype == np.uint8 and values.ndim == 4 and values.shape[1:3] == self.pictures.shape[1:3]

    def fingerprint(self) -> str:
        """A hash of all that training sees: pictures, labels and class names."""
        digest = hashlib.sha256(repr((self.pictures.shape, self.classes)).encode())
        for start in range(0, len(self), 4096):
            digest.update(np.ascontiguousarray(self.pictures[start : start + 4096]).data)
        if self.labels is not None:
            digest.update(np.ascontiguousarray(self.labels, dtype="<i8").data)
        for name, values in self.values.items():
            digest.update(repr((name, values.shape)).encode())
            for start in range(0, len(self), 4096):
                part = values[start : start + 4096]
                digest.update(
                    repr(part.tolist()).encode() if part.dtype == object else np.ascontiguousarray(part).tobytes()
                )
        return digest.hexdigest()


def mirror(values: np.ndarray, mirrored: np.ndarray | None, swap: np.ndarray | None = None) -> np.ndarray:
    """Pictures or maps (n, H, W, C) with the marked ones flipped left to right and their first channel taken through `swap`."""
    if mirrored is None:
        return values
    flipped = values[:, :, ::-1]
    if swap is not None:
        flipped = np.concatenate([swap[flipped[..., :1]], flipped[..., 1:]], axis=-1)
    return np.where(mirrored.reshape(-1, *[1] * (values.ndim - 1)), flipped, values)


@dataclass(frozen=True)
class PointSet:
    """Points (N, D) float32 instead of pictures, for the same training. They should have about unit size."""

    points: Tensor

    def __len__(self) -> int:
        return len(self.points)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one point."""
        return tuple(self.points.shape[1:])

    def batch(self, indices: np.ndarray, mirrored: np.ndarray | None = None) -> Batch:
        """The points of these indices."""
        return Batch(self.points[torch.from_numpy(indices)])

    def fingerprint(self) -> str:
        """A hash of the points."""
        return hashlib.sha256(self.points.numpy().tobytes()).hexdigest()


def to_signed(pictures: np.ndarray) -> Tensor:
    """(N, H, W, C) uint8 in 0..255 -> (N, C, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(np.array(pictures.transpose(0, 3, 1, 2), order="C")).float() / 127.5 - 1


def to_uint8(x: Tensor) -> np.ndarray:
    """(N, C, H, W) in [-1, 1] -> (N, H, W, C) uint8 in 0..255, clipped and rounded to the nearest level."""
    levels = ((x.detach().cpu().float() + 1) * 127.5).clamp(0, 255).round().to(torch.uint8)
    return levels.permute(0, 2, 3, 1).contiguous().numpy()

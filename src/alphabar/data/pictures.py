"""A set of pictures as one uint8 array, and batches of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """What a training step sees: x_0 (n, ...) float32, and the raw conditions by name, each (n, ...)."""

    x_0: Tensor
    cond: Mapping[str, Tensor] = field(default_factory=dict)


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


@dataclass(frozen=True)
class PictureSet:
    """pictures (N, H, W, C) uint8, in memory or memory-mapped; labels (N,) int64 into `classes`, or None; a name each."""

    pictures: np.ndarray | Rows
    labels: np.ndarray | None = None
    classes: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one picture as networks see it: (C, H, W)."""
        height, width, channels = self.pictures.shape[1:]
        return channels, height, width

    def batch(self, indices: np.ndarray, mirrored: np.ndarray | None = None) -> Batch:
        """The pictures of these indices in [-1, 1], those marked in `mirrored` (n,) bool flipped left to right."""
        pictures = self.pictures[indices]
        if mirrored is not None:
            pictures = np.where(mirrored[:, None, None, None], pictures[:, :, ::-1], pictures)
        cond = {} if self.labels is None else {"label": torch.from_numpy(self.labels[indices])}
        return Batch(to_signed(pictures), cond)

    def fingerprint(self) -> str:
        """A hash of all that training sees: pictures, labels and class names."""
        digest = hashlib.sha256(repr((self.pictures.shape, self.classes)).encode())
        for start in range(0, len(self), 4096):
            digest.update(np.ascontiguousarray(self.pictures[start : start + 4096]).data)
        if self.labels is not None:
            digest.update(np.ascontiguousarray(self.labels, dtype="<i8").data)
        return digest.hexdigest()


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
    return torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))).float() / 127.5 - 1


def to_uint8(x: Tensor) -> np.ndarray:
    """(N, C, H, W) in [-1, 1] -> (N, H, W, C) uint8 in 0..255, clipped and rounded to the nearest level."""
    levels = ((x.detach().cpu().float() + 1) * 127.5).clamp(0, 255).round().to(torch.uint8)
    return levels.permute(0, 2, 3, 1).contiguous().numpy()

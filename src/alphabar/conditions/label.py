"""Class labels: an embedding of the class, added to the time embedding."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import ConfigurationError
from .base import Cond, Encoder
from .settings import LabelSettings


class LabelEncoder(Encoder):
    """label in 0..C-1 -> vector (N, D), one learned row a class. The null value is one more learned row, number C."""

    def __init__(self, settings: LabelSettings, dim: int) -> None:
        super().__init__()
        self.null = len(settings.classes)
        self.dropout = settings.dropout
        self.embedding = nn.Embedding(self.null + 1, dim)

    def forward(self, value: Tensor | None, n: int, drop: Tensor | None = None) -> Cond:
        """value (n,) int64 in 0..C (C is null), or None for all null. Raises ConfigurationError for another number or shape."""
        device = self.embedding.weight.device
        if value is None:
            value = torch.full((n,), self.null)
        if value.shape != (n,) or bool(((value < 0) | (value > self.null)).any()):
            raise ConfigurationError(
                f"labels must be {n} numbers in 0..{self.null} ({self.null} is null), got {value.tolist()}"
            )
        if drop is not None:
            value = value.masked_fill(drop.to(value.device), self.null)
        return Cond(vector=self.embedding(value.to(device)))

"""Class labels: an embedding of the class, added to the time embedding (Dhariwal & Nichol 2021, sec. 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..data.readers import CLASS_NEEDS, Reader
from ..errors import ConfigurationError, nearest
from ..networks.cond import Cond
from ..settings.conditions import ClassSettings
from .base import Encoder, Sizes, hide


class ClassReader(Reader):
    """Classes are read with the pictures (`data.split`), so there is nothing to look for here."""

    settings = ClassSettings
    needs = CLASS_NEEDS


class LabelEncoder(Encoder):
    """label in 0..C-1 -> vector (N, D), one learned row a class. The null value is one more learned row, number C."""

    def __init__(self, settings: ClassSettings, sizes: Sizes) -> None:
        super().__init__(settings)
        self.classes = settings.classes
        self.null = len(settings.classes)
        self.embedding = nn.Embedding(self.null + 1, sizes.vector_dim)

    def read(self, inputs: Sequence[Any], notes: list[str]) -> np.ndarray:
        """Class names -> their numbers. Raises ConfigurationError for a class that the model does not know."""
        for name in inputs:
            if name is not None and name not in self.classes:
                raise ConfigurationError(
                    f"the model does not know the class {name!r}; {nearest(str(name), self.classes)}"
                )
        return np.array([self.null if name is None else self.classes.index(name) for name in inputs], np.int64)

    def forward(self, values: np.ndarray | Tensor | None, n: int, drop: Tensor | None = None) -> Cond:
        """values (n,) int64 in 0..C (C is null), or None for all null. Raises ConfigurationError for another number or shape."""
        numbers = torch.full((n,), self.null) if values is None else torch.as_tensor(values)
        if numbers.shape != (n,) or bool(((numbers < 0) | (numbers > self.null)).any()):
            raise ConfigurationError(
                f"labels must be {n} numbers in 0..{self.null} ({self.null} is null), got {numbers.tolist()}"
            )
        return Cond(vector=self.embedding(hide(numbers, drop, self.null).to(self.device)))

    def show(self, values: np.ndarray) -> tuple[np.ndarray | None, list[str] | None]:
        """The class names."""
        return None, ["" if value == self.null else self.classes[value] for value in np.asarray(values)]

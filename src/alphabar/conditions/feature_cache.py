"""Features that are kept in memory up to a number of bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict

from torch import Tensor

from ..machine import available_memory

LARGEST_BUDGET = 2**30  # bytes
SHARE = 0.25  # of the memory that is available when the cache is made


class FeatureCache:
    """Tensors by key, `budget` bytes of them at most, of which those go first that were used longest ago. Threads may share it.

    budget: default: a quarter of the available memory, 1 GiB at most.
    """

    def __init__(self, budget: int | None = None) -> None:
        self.budget = int(min(LARGEST_BUDGET, SHARE * available_memory())) if budget is None else budget
        self.size = 0
        self._kept: OrderedDict[str, Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: str) -> Tensor | None:
        """The tensor of this key, None if it is not kept."""
        with self._lock:
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return self._kept[key]

    def keep(self, key: str, tensor: Tensor) -> None:
        """Keep a tensor, in the place of others where the budget needs it; one that exceeds the budget alone is not kept."""
        with self._lock:
            if key in self._kept:
                self.size -= self._kept.pop(key).nbytes
            if tensor.nbytes > self.budget:
                return
            self._kept[key] = tensor
            self.size += tensor.nbytes
            while self.size > self.budget:
                self.size -= self._kept.popitem(last=False)[1].nbytes

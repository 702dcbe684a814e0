"""A stand-in for a device other than the CPU: torch's `meta` device, without float64 as on Apple's GPUs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

META = torch.device("meta")


class NoFloat64OffTheCPU(TorchDispatchMode):
    """Raise TypeError, as MPS does, where an operation gives a float64 tensor on a device other than the CPU."""

    def __torch_dispatch__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.dtype == torch.float64 and leaf.device.type != "cpu":
                raise TypeError(f"{func} gives float64 on {leaf.device}, which has none; cast before the move")
        return result

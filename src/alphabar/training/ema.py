"""The exponential moving average of the weights."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar, cast

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def ema_decay(step: int, decay: float) -> float:
    """min(decay, (1 + step) / (10 + step)), step counted from 1.

    The warm-up makes the average span about a ninth of the run so far, whatever its length, until the constant decay is
    reached; a constant one alone would keep the random start in a short run.
    """
    return min(decay, (1 + step) / (10 + step))


class EMA(Generic[Module]):
    """ema <- decay ema + (1 - decay) weights after each step. Buffers are copied, not averaged."""

    def __init__(self, module: Module, decay: float) -> None:
        self.module: Module = copy.deepcopy(module).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Take in the weights after optimizer step number `step`, counted from 1."""
        weight = 1 - ema_decay(step, self.decay)
        torch._foreach_lerp_(list(self.module.parameters()), list(module.parameters()), weight)
        for average, buffer in zip(self.module.buffers(), module.buffers(), strict=True):
            average.copy_(buffer)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The averaged weights by name."""
        return cast(dict[str, torch.Tensor], self.module.state_dict())

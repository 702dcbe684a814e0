"""A residual network for points: the smallest network that the diffusion code takes."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigurationError
from ..settings.networks import MLPSettings
from .base import Network
from .cond import Cond, Doors
from .layers import TimeEmbedding, sinusoidal_embedding


class MLP(Network):
    """x (N, in_dim), time (N,), cond -> (N, out_dim). `cond.vector` is (N, vector_dim), added to the time embedding."""

    def __init__(self, settings: MLPSettings, in_dim: int, out_dim: int, doors: Doors | None = None) -> None:
        super().__init__()
        self.width = self.vector_dim = self.token_dim = settings.width
        self.time_embedding = TimeEmbedding(settings.width, settings.width)
        self.first = nn.Linear(in_dim, settings.width)
        self.hidden = nn.ModuleList(nn.Linear(settings.width, settings.width) for _ in range(settings.layers))
        self.norms = nn.ModuleList(nn.LayerNorm(settings.width) for _ in range(settings.layers))
        self.last = nn.Linear(settings.width, out_dim)

    @classmethod
    def check_shape(cls, settings: MLPSettings, shape: Sequence[int]) -> None:
        """Points only."""
        if len(shape) != 1:
            raise ConfigurationError(
                f"network.kind=mlp is for points, the data has shape {tuple(shape)}; use network.kind=unet"
            )

    def ends(self) -> tuple[nn.Module, ...]:
        """The layers that meet the coordinates of a point."""
        return self.first, self.last

    def forward(self, x: Tensor, time: Tensor, cond: Cond) -> Tensor:
        """Predict from the noisy point, the time and the conditions."""
        emb = self.time_embedding(sinusoidal_embedding(time, self.width))
        if cond.vector is not None:
            emb = emb + cond.vector
        h = self.first(x)
        for linear, norm in zip(self.hidden, self.norms, strict=True):
            h = h + linear(F.silu(norm(h) + emb))
        return self.last(F.silu(h))

"""A diffusion transformer (Peebles & Xie 2023): a network of one's own."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from alphabar.errors import ConfigurationError
from alphabar.networks import Cond, Doors, Network, register
from alphabar.networks.layers import TimeEmbedding, place_embedding, sinusoidal_embedding, zero_initialised
from alphabar.settings.networks import NetworkSettings


class TransformerSettings(NetworkSettings):
    kind: Literal["transformer"] = Field("transformer", description="a transformer of patches")
    patch: int = Field(2, ge=1, description="pixels along the side of a patch")
    heads: int = Field(4, ge=1, description="heads of attention, of 16 features each")
    layers: int = Field(4, ge=1, description="blocks of attention and a perceptron")


class Block(nn.Module):
    """h (N, L, D), emb (N, D) -> (N, L, D): attention and a perceptron; emb shifts, scales and gates both."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.norm = heads, nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = zero_initialised(nn.Linear(width, 6 * width))
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        shift, scale, gate, shift_2, scale_2, gate_2 = self.modulation(F.silu(emb))[:, None].chunk(6, dim=-1)
        qkv = self.qkv(self.norm(h) * (1 + scale) + shift).unflatten(-1, (3, self.heads, -1))
        attended = F.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4)).transpose(1, 2).flatten(2)
        h = h + gate * self.project(attended)
        return h + gate_2 * self.perceptron(self.norm(h) * (1 + scale_2) + shift_2)


class Transformer(Network):
    """x (N, C, H, W), time (N,), cond -> (N, out, H, W). It takes any H and W that are multiples of the patch."""

    doors_in = frozenset({"vector", "concat"})

    def __init__(self, settings: TransformerSettings, in_channels: int, out_channels: int, doors: Doors) -> None:
        super().__init__()
        self.width = self.vector_dim = self.token_dim = width = 16 * settings.heads
        self.patch, self.concat = settings.patch, doors.concat
        self.first = nn.Conv2d(in_channels + doors.concat, width, self.patch, stride=self.patch)
        self.time_embedding = TimeEmbedding(width, width)
        self.blocks = nn.ModuleList(Block(width, settings.heads) for _ in range(settings.layers))
        self.norm = nn.LayerNorm(width)
        self.last = zero_initialised(nn.Conv2d(width, out_channels * self.patch**2, 1))

    @classmethod
    def check_shape(cls, settings: TransformerSettings, shape: Sequence[int]) -> None:
        if len(shape) != 3 or shape[1] % settings.patch or shape[2] % settings.patch:
            raise ConfigurationError(
                f"network.kind=transformer takes pictures (C, H, W) with sides that are multiples of "
                f"network.patch={settings.patch}, got {tuple(shape)}; choose another patch or --size"
            )

    def ends(self) -> tuple[nn.Module, ...]:
        return self.first, self.last

    def forward(self, x: Tensor, time: Tensor, cond: Cond) -> Tensor:
        emb = self.time_embedding(sinusoidal_embedding(time, self.width))
        emb = emb if cond.vector is None else emb + cond.vector
        if self.concat:
            unknown = x.new_zeros(len(x), self.concat, *x.shape[2:])
            x = torch.cat([x, unknown if cond.concat is None else cond.concat], dim=1)
        patches = self.first(x)
        size = patches.shape[2:]
        h = patches.flatten(2).transpose(1, 2) + place_embedding(*size, self.width, x.device)
        for block in self.blocks:
            h = block(h, emb)
        return F.pixel_shuffle(self.last(self.norm(h).transpose(1, 2).unflatten(2, size)), self.patch)


register("transformer", TransformerSettings, Transformer)

"""The U-Net of DDPM (Ho et al. 2020, app. B; Ronneberger et al. 2015).

Blocks and parameter names correspond one to one to those of diffusers' `UNet2DModel`. Beyond it, pictures may have any size
that is large enough: an odd size is met again on the way up by upsampling to the size of the skip connection. With `patch` > 1
the network works on squares of pixels (space to depth, Shi et al. 2016, fig. 1, backwards), as the input of SimpleDiffusion's U-Net
does (Hoogeboom et al. 2023, sec. 3.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigurationError
from ..settings.networks import UNetSettings
from .base import DOORS, Network
from .cond import Cond, Doors
from .layers import (
    Attention,
    CrossAttention,
    Downsample,
    GroupNorm,
    ResidualBlock,
    TimeEmbedding,
    Upsample,
    sinusoidal_embedding,
)


@dataclass
class Context:
    """What all blocks see: the embedding of time and vector (N, D), the tokens, and the guide of the modulation at any size."""

    emb: Tensor
    cond: Cond
    _guides: dict[tuple[int, ...], Tensor] = field(default_factory=dict)

    def guide(self, x: Tensor) -> Tensor | None:
        """The modulation door averaged to the size of x: of one-hot maps, the share of each class, so that thin parts stay."""
        if self.cond.modulation is None:
            return None
        size = tuple(x.shape[-2:])
        if size not in self._guides:
            self._guides[size] = F.interpolate(self.cond.modulation, size=size, mode="area")
        return self._guides[size]


class Level(nn.Module):
    """Residual blocks of one resolution, each followed by attention and by cross-attention to tokens where the level has them.

    Modulation stands on the way up and in the middle, as in Semantic Diffusion Models (Wang et al. 2022, sec. 3.1).
    """

    modulated = True

    def __init__(
        self, settings: UNetSettings, widths: list[int], out_channels: int, attention: bool, emb_dim: int, doors: Doors
    ) -> None:
        super().__init__()
        guide = doors.modulation if self.modulated else 0
        self.resnets = nn.ModuleList(residual_block(settings, width, out_channels, emb_dim, guide) for width in widths)
        self.attentions = nn.ModuleList(attention_block(settings, out_channels) for _ in widths) if attention else None
        crossing = attention and doors.tokens
        self.cross_attentions = (
            nn.ModuleList(cross_attention_block(settings, out_channels) for _ in widths) if crossing else None
        )

    def block(self, i: int, x: Tensor, context: Context) -> Tensor:
        """Residual block number i with its attentions."""
        x = self.resnets[i](x, context.emb, context.guide(x) if self.modulated else None)
        if self.attentions is not None:
            x = self.attentions[i](x)
        if self.cross_attentions is not None and context.cond.tokens is not None:
            x = self.cross_attentions[i](x, context.cond.tokens, context.cond.token_mask)
        return x


class DownLevel(Level):
    """One resolution on the way down; yields a skip connection after each block and after the downsampling."""

    modulated = False

    def __init__(self, settings: UNetSettings, in_channels: int, level: int, emb_dim: int, doors: Doors) -> None:
        out_channels = settings.channels[level]
        widths = [in_channels] + [out_channels] * (settings.blocks - 1)
        super().__init__(settings, widths, out_channels, settings.attention[level], emb_dim, doors)
        last = level == len(settings.channels) - 1
        self.downsamplers = None if last else nn.ModuleList([Downsample(out_channels, settings.down_padding)])

    def forward(self, x: Tensor, context: Context) -> list[Tensor]:
        """The skip connections of this level; the last one is its output."""
        skips = []
        for i in range(len(self.resnets)):
            x = self.block(i, x, context)
            skips.append(x)
        if self.downsamplers is not None:
            skips.append(self.downsamplers[0](x))
        return skips


class UpLevel(Level):
    """One resolution on the way up; takes one skip connection a block."""

    def __init__(self, settings: UNetSettings, in_channels: int, level: int, emb_dim: int, doors: Doors) -> None:
        out_channels = settings.channels[level]
        skip_channels = [out_channels] * settings.blocks + [settings.channels[max(level - 1, 0)]]
        widths = [
            x + skip for x, skip in zip([in_channels] + [out_channels] * settings.blocks, skip_channels, strict=True)
        ]
        super().__init__(settings, widths, out_channels, settings.attention[level], emb_dim, doors)
        self.upsamplers = nn.ModuleList([Upsample(out_channels)]) if level > 0 else None

    def forward(self, x: Tensor, context: Context, skips: list[Tensor]) -> Tensor:
        """Consume this level's skip connections from the end of `skips`, then grow to the size of the next one."""
        for i in range(len(self.resnets)):
            x = self.block(i, torch.cat([x, skips.pop()], dim=1), context)
        return self.upsamplers[0](x, skips[-1].shape[-2:]) if self.upsamplers is not None else x


class Middle(nn.Module):
    """Two residual blocks with attention, and cross-attention to tokens, between them."""

    def __init__(self, settings: UNetSettings, emb_dim: int, doors: Doors) -> None:
        super().__init__()
        channels = settings.channels[-1]
        self.resnets = nn.ModuleList(
            residual_block(settings, channels, channels, emb_dim, doors.modulation) for _ in range(2)
        )
        self.attentions = nn.ModuleList([attention_block(settings, channels)] if settings.middle_attention else [])
        self.cross_attentions = nn.ModuleList([cross_attention_block(settings, channels)] if doors.tokens else [])

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """The bottom of the U."""
        guide = context.guide(x)
        x = self.resnets[0](x, context.emb, guide)
        for attention in self.attentions:
            x = attention(x)
        for attention in self.cross_attentions if context.cond.tokens is not None else ():
            x = attention(x, context.cond.tokens, context.cond.token_mask)
        return cast(Tensor, self.resnets[1](x, context.emb, guide))


class UNet(Network):
    """x (N, in_channels, H, W), time (N,), cond -> (N, out_channels, H, W).

    `cond.vector` (N, vector_dim) is added to the time embedding; tokens (N, L, token_dim) are attended to wherever there is
    attention, and in the middle; `concat` joins x at the input; `modulation` follows each norm in the middle and on the way up.
    Raises ConfigurationError for a picture that the downsampling would reduce to nothing.
    """

    doors_in = frozenset(DOORS)

    def __init__(self, settings: UNetSettings, in_channels: int, out_channels: int, doors: Doors | None = None) -> None:
        super().__init__()
        self.settings = settings
        self.doors = doors = doors or Doors()
        self.token_dim = settings.token_dim
        widths = settings.channels
        self.vector_dim = emb_dim = 4 * widths[0]
        area = settings.patch**2
        self.conv_in = nn.Conv2d(area * (in_channels + doors.concat), widths[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(widths[0], emb_dim)
        levels = range(len(widths))
        self.down_blocks = nn.ModuleList(DownLevel(settings, widths[max(i - 1, 0)], i, emb_dim, doors) for i in levels)
        self.mid_block = Middle(settings, emb_dim, doors)
        self.up_blocks = nn.ModuleList(
            UpLevel(settings, widths[min(i + 1, len(widths) - 1)], i, emb_dim, doors) for i in reversed(levels)
        )
        self.conv_norm_out = GroupNorm(settings.groups, widths[0], settings.norm_eps)
        self.conv_out = nn.Conv2d(widths[0], area * out_channels, 3, padding=1)

    @classmethod
    def check_shape(cls, settings: UNetSettings, shape: Sequence[int]) -> None:
        """Pictures that are large enough for the downsampling."""
        if len(shape) != 3:
            raise ConfigurationError(
                f"network.kind=unet is for pictures (C, H, W), the data has shape {tuple(shape)}; use network.kind=mlp"
            )
        check_size(settings, shape[1], shape[2])

    def ends(self) -> tuple[nn.Module, ...]:
        """The convolutions that meet pixels."""
        return self.conv_in, self.conv_out

    def forward(self, x: Tensor, time: Tensor, cond: Cond) -> Tensor:
        """Predict from the noisy picture, the time and the conditions."""
        size = x.shape[-2:]
        check_size(self.settings, *size)
        emb = sinusoidal_embedding(
            time, self.settings.channels[0], self.settings.sine_first, self.settings.frequency_shift
        )
        emb = self.time_embedding(emb)
        if cond.vector is not None:
            emb = emb + cond.vector
        if self.doors.concat:
            x = torch.cat([x, self._concat_door(x, cond)], dim=1)
        context = Context(emb, cond)
        skips = [self.conv_in(to_patches(x, self.settings.patch))]
        for down in self.down_blocks:
            skips.extend(down(skips[-1], context))
        x = self.mid_block(skips[-1], context)
        for up in self.up_blocks:
            x = up(x, context, skips)
        return from_patches(self.last(x), self.settings.patch, size)

    def last(self, x: Tensor) -> Tensor:
        """Norm, SiLU and convolution to the channels of the output."""
        return self.conv_out(self.conv_norm_out(x, silu=True))

    def _concat_door(self, x: Tensor, cond: Cond) -> Tensor:
        if cond.concat is None:
            return x.new_zeros(len(x), self.doors.concat, *x.shape[-2:])
        return cond.concat.to(x.dtype)


def to_patches(x: Tensor, patch: int) -> Tensor:
    """(N, C, H, W) -> (N, patch^2 C, ceil(H / patch), ceil(W / patch)): squares of pixels as channels, the last row and column repeated
    where the size is no multiple."""
    if patch == 1:
        return x
    height, width = x.shape[-2:]
    x = F.pad(x, (0, -width % patch, 0, -height % patch), mode="replicate")
    return F.pixel_unshuffle(x, patch)


def from_patches(x: Tensor, patch: int, size: tuple[int, ...]) -> Tensor:
    """(N, patch^2 C, h, w) -> (N, C, *size): back from `to_patches`, what was added cut off."""
    return x if patch == 1 else F.pixel_shuffle(x, patch)[..., : size[0], : size[1]]


def residual_block(
    settings: UNetSettings, in_channels: int, out_channels: int, emb_dim: int, guide_channels: int = 0
) -> ResidualBlock:
    """A residual block with the network's common settings, modulated where there is a guide."""
    modulation = (guide_channels, settings.modulation_channels) if guide_channels else None
    return ResidualBlock(
        in_channels,
        out_channels,
        emb_dim,
        settings.groups,
        settings.norm_eps,
        settings.dropout,
        settings.time_mode,
        modulation,
    )


def attention_block(settings: UNetSettings, channels: int) -> Attention:
    """An attention block with the network's common settings."""
    return Attention(channels, settings.head_channels, settings.groups, settings.norm_eps)


def cross_attention_block(settings: UNetSettings, channels: int) -> CrossAttention:
    """A cross-attention block with the network's common settings."""
    return CrossAttention(channels, settings.token_dim, settings.head_channels, settings.groups, settings.norm_eps)


def check_size(settings: UNetSettings, height: int, width: int) -> None:
    """Raise ConfigurationError if a picture is smaller than the downsampling allows: one pixel must be left at the bottom."""
    least = settings.patch * 2 ** (len(settings.channels) - 1)
    if min(height, width) < least:
        raise ConfigurationError(
            f"pictures of {height}x{width} are too small for a network with {len(settings.channels)} resolutions"
            f"{f' of patches of {settings.patch}' if settings.patch > 1 else ''}, which needs at least {least}x{least}: use fewer network.channels (preset tiny has 2) or a larger data.size"
        )

"""The U-Net of DDPM (Ho et al. 2020, app. B; Ronneberger et al. 2015).

Blocks and parameter names correspond one to one to those of diffusers' `UNet2DModel`. Beyond it, pictures may have any size
that is large enough: an odd size is met again on the way up by upsampling to the size of the skip connection.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..conditions.base import Cond
from ..errors import ConfigurationError
from .layers import Attention, Downsample, ResidualBlock, TimeEmbedding, Upsample, sinusoidal_embedding
from .settings import UNetSettings


class Level(nn.Module):
    """The residual blocks of one resolution, each followed by attention if the level has it, and a change of size."""

    def __init__(
        self, settings: UNetSettings, widths: list[int], out_channels: int, attention: bool, emb_dim: int
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(residual_block(settings, width, out_channels, emb_dim) for width in widths)
        self.attentions = nn.ModuleList(attention_block(settings, out_channels) for _ in widths) if attention else None

    def blocks(self) -> list[tuple[nn.Module, nn.Module | None]]:
        """Pairs of a residual block and its attention or None."""
        return list(zip(self.resnets, self.attentions or [None] * len(self.resnets), strict=True))


class DownLevel(Level):
    """One resolution on the way down; yields a skip connection after each block and after the downsampling."""

    def __init__(self, settings: UNetSettings, in_channels: int, level: int, emb_dim: int) -> None:
        out_channels = settings.channels[level]
        widths = [in_channels] + [out_channels] * (settings.blocks - 1)
        super().__init__(settings, widths, out_channels, settings.attention[level], emb_dim)
        last = level == len(settings.channels) - 1
        self.downsamplers = None if last else nn.ModuleList([Downsample(out_channels, settings.down_padding)])

    def forward(self, x: Tensor, emb: Tensor) -> list[Tensor]:
        """The skip connections of this level; the last one is its output."""
        skips = []
        for resnet, attention in self.blocks():
            x = resnet(x, emb)
            x = attention(x) if attention is not None else x
            skips.append(x)
        if self.downsamplers is not None:
            skips.append(self.downsamplers[0](x))
        return skips


class UpLevel(Level):
    """One resolution on the way up; takes one skip connection a block."""

    def __init__(self, settings: UNetSettings, in_channels: int, level: int, emb_dim: int) -> None:
        out_channels = settings.channels[level]
        skip_channels = [out_channels] * settings.blocks + [settings.channels[max(level - 1, 0)]]
        widths = [
            x + skip for x, skip in zip([in_channels] + [out_channels] * settings.blocks, skip_channels, strict=True)
        ]
        super().__init__(settings, widths, out_channels, settings.attention[level], emb_dim)
        self.upsamplers = nn.ModuleList([Upsample(out_channels)]) if level > 0 else None

    def forward(self, x: Tensor, emb: Tensor, skips: list[Tensor]) -> Tensor:
        """Consume this level's skip connections from the end of `skips`, then grow to the size of the next one."""
        for resnet, attention in self.blocks():
            x = resnet(torch.cat([x, skips.pop()], dim=1), emb)
            x = attention(x) if attention is not None else x
        return self.upsamplers[0](x, skips[-1].shape[-2:]) if self.upsamplers is not None else x


class Middle(nn.Module):
    """Two residual blocks with attention between them."""

    def __init__(self, settings: UNetSettings, emb_dim: int) -> None:
        super().__init__()
        channels = settings.channels[-1]
        self.resnets = nn.ModuleList(residual_block(settings, channels, channels, emb_dim) for _ in range(2))
        self.attentions = nn.ModuleList([attention_block(settings, channels)] if settings.middle_attention else [])

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """The bottom of the U."""
        x = self.resnets[0](x, emb)
        for attention in self.attentions:
            x = attention(x)
        return cast(Tensor, self.resnets[1](x, emb))


class UNet(nn.Module):
    """x (N, in_channels, H, W), time (N,), cond -> (N, out_channels, H, W). `cond.vector` is (N, vector_dim), added to the time embedding.

    Raises ConfigurationError for a picture that the downsampling would reduce to nothing.
    """

    def __init__(self, settings: UNetSettings, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.settings = settings
        widths = settings.channels
        self.vector_dim = emb_dim = 4 * widths[0]
        self.conv_in = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(widths[0], emb_dim)
        levels = range(len(widths))
        self.down_blocks = nn.ModuleList(DownLevel(settings, widths[max(i - 1, 0)], i, emb_dim) for i in levels)
        self.mid_block = Middle(settings, emb_dim)
        self.up_blocks = nn.ModuleList(
            UpLevel(settings, widths[min(i + 1, len(widths) - 1)], i, emb_dim) for i in reversed(levels)
        )
        self.conv_norm_out = nn.GroupNorm(settings.groups, widths[0], settings.norm_eps)
        self.conv_out = nn.Conv2d(widths[0], out_channels, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor, cond: Cond) -> Tensor:
        """Predict from the noisy picture, the time and the conditions."""
        check_size(self.settings, *x.shape[-2:])
        emb = sinusoidal_embedding(
            time, self.settings.channels[0], self.settings.sine_first, self.settings.frequency_shift
        )
        emb = self.time_embedding(emb)
        if cond.vector is not None:
            emb = emb + cond.vector
        skips = [self.conv_in(x)]
        for down in self.down_blocks:
            skips.extend(down(skips[-1], emb))
        x = self.mid_block(skips[-1], emb)
        for up in self.up_blocks:
            x = up(x, emb, skips)
        return cast(Tensor, self.conv_out(F.silu(self.conv_norm_out(x))))


def residual_block(settings: UNetSettings, in_channels: int, out_channels: int, emb_dim: int) -> ResidualBlock:
    """A residual block with the network's common settings."""
    return ResidualBlock(
        in_channels, out_channels, emb_dim, settings.groups, settings.norm_eps, settings.dropout, settings.time_mode
    )


def attention_block(settings: UNetSettings, channels: int) -> Attention:
    """An attention block with the network's common settings."""
    return Attention(channels, settings.head_channels, settings.groups, settings.norm_eps)


def check_size(settings: UNetSettings, height: int, width: int) -> None:
    """Raise ConfigurationError if a picture is smaller than the downsampling allows: one pixel must be left at the bottom."""
    least = 2 ** (len(settings.channels) - 1)
    if min(height, width) < least:
        raise ConfigurationError(
            f"pictures of {height}x{width} are too small for a network with {len(settings.channels)} resolutions, "
            f"which needs at least {least}x{least}: use fewer network.channels (preset tiny has 2) or a larger data.size"
        )

"""The parts that networks are made of. Names of parameters are those of diffusers' blocks, so that weights carry over one to one."""

from __future__ import annotations

import math
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def sinusoidal_embedding(time: Tensor, dim: int, sine_first: bool = True, frequency_shift: int = 1) -> Tensor:
    """time (N,) -> (N, dim): sin and cos of time * 10000^(-i / (dim / 2 - shift)), i = 0..dim / 2 - 1, float32.

    Source: Vaswani et al. 2017, sec. 3.5, in the order and with the divisor of Ho et al. 2020's code (shift = 1, sine first).
    """
    half = dim // 2
    exponents = torch.arange(half, dtype=torch.float32, device=time.device) / max(half - frequency_shift, 1)
    angles = time.float()[:, None] * torch.exp(-math.log(10000) * exponents)
    parts = (angles.sin(), angles.cos()) if sine_first else (angles.cos(), angles.sin())
    return F.pad(torch.cat(parts, dim=1), (0, dim % 2))


class TimeEmbedding(nn.Module):
    """(N, in_dim) -> (N, out_dim): two linear layers with SiLU between them."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(in_dim, out_dim)
        self.linear_2 = nn.Linear(out_dim, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Embed."""
        return self.linear_2(F.silu(self.linear_1(x)))


class GroupNorm(nn.GroupNorm):
    """x (N, C, H, W) -> act(norm(x + offset) gain (1 + scale) + bias + shift); offset, scale and shift (N, C), act SiLU or the identity."""

    def forward(
        self,
        x: Tensor,
        silu: bool = False,
        offset: Tensor | None = None,
        scale: Tensor | None = None,
        shift: Tensor | None = None,
    ) -> Tensor:
        """Normalise."""
        h = super().forward(x if offset is None else x + offset[:, :, None, None])
        h = h if scale is None else h * (1 + scale[:, :, None, None])
        h = h if shift is None else h + shift[:, :, None, None]
        return F.silu(h) if silu else h


class Pointwise(nn.Conv2d):
    """A convolution of 1x1."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1)


class ResidualBlock(nn.Module):
    """x (N, in, H, W), emb (N, D) -> (N, out, H, W): norm, SiLU, convolution, twice, with the time embedding between them.

    time_mode "add": added after the first convolution (Ho et al. 2020). "scale_shift": h (1 + scale) + shift after the second
    norm (Dhariwal & Nichol 2021, sec. 3.1, adaptive group normalisation). With modulation, both norms are followed by one.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        emb_dim: int,
        groups: int,
        eps: float,
        dropout: float,
        time_mode: str,
        modulation: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.scale_shift = time_mode == "scale_shift"
        self.norm1 = GroupNorm(groups, in_channels, eps)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time_emb_proj = nn.Linear(emb_dim, out_channels * (2 if self.scale_shift else 1))
        self.norm2 = GroupNorm(groups, out_channels, eps)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = Pointwise(in_channels, out_channels) if in_channels != out_channels else None
        self.modulation1 = Modulation(in_channels, *modulation) if modulation else None
        self.modulation2 = Modulation(out_channels, *modulation) if modulation else None

    def forward(self, x: Tensor, emb: Tensor, guide: Tensor | None = None) -> Tensor:
        """One residual block; `guide` (N, M, H, W) is what the modulation follows."""
        h = self.first(x, guide)
        rows = self.time_rows(emb)
        passed = x if self.conv_shortcut is None else self.conv_shortcut(x)
        return self.second(h, rows, passed, guide)

    def first(self, x: Tensor, guide: Tensor | None) -> Tensor:
        """Norm, SiLU and convolution."""
        if self.modulation1 is not None and guide is not None:
            return self.conv1(F.silu(self.modulation1(self.norm1(x), guide)))
        return self.conv1(self.norm1(x, silu=True))

    def second(self, h: Tensor, rows: dict[str, Tensor], passed: Tensor, guide: Tensor | None) -> Tensor:
        """Norm with the rows of the time embedding, SiLU, dropout and convolution, plus what the shortcut passed."""
        if self.modulation2 is not None and guide is not None:
            return self.conv2(self.dropout(F.silu(self.modulation2(self.norm2(h, **rows), guide)))) + passed
        return self.conv2(self.dropout(self.norm2(h, silu=True, **rows))) + passed

    def time_rows(self, emb: Tensor) -> dict[str, Tensor]:
        """The arguments (N, out) of the second norm that the time embedding gives."""
        emb = self.time_emb_proj(F.silu(emb))
        if not self.scale_shift:
            return {"offset": emb}
        scale, shift = emb.chunk(2, dim=1)
        return {"scale": scale, "shift": shift}


class Modulation(nn.Module):
    """h (N, C, H, W), guide m (N, M, H, W) -> h (1 + gamma(m)) + beta(m): gamma and beta are two convolutions of m, place by place.

    Both are 0 at the start. Source: Park et al. 2019, "Semantic Image Synthesis with Spatially-Adaptive Normalization", eq. 1.
    """

    def __init__(self, channels: int, guide_channels: int, hidden: int) -> None:
        super().__init__()
        self.shared = nn.Conv2d(guide_channels, hidden, 3, padding=1)
        self.scale_shift = zero_initialised(nn.Conv2d(hidden, 2 * channels, 3, padding=1))

    def forward(self, h: Tensor, guide: Tensor) -> Tensor:
        """Modulate."""
        gamma, beta = self.scale_shift(F.relu(self.shared(guide))).chunk(2, dim=1)
        return h * (1 + gamma) + beta


class Attention(nn.Module):
    """x (N, C, H, W) -> (N, C, H, W): residual self-attention over the H W positions, with a group norm before it."""

    def __init__(self, channels: int, head_channels: int | None, groups: int, eps: float) -> None:
        super().__init__()
        self.heads = channels // (head_channels or channels)
        self.group_norm = GroupNorm(groups, channels, eps)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        """Attend."""
        h = self.group_norm(x)
        n, c, height, width = x.shape
        h = h.flatten(2).transpose(1, 2)  # (N, H W, C)
        q, k, v = (
            project(h).view(n, height * width, self.heads, c // self.heads).transpose(1, 2)
            for project in (self.to_q, self.to_k, self.to_v)
        )
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, height * width, c)
        return x + self.to_out[0](h).transpose(1, 2).reshape(n, c, height, width)


class CrossAttention(nn.Module):
    """x (N, C, H, W), tokens (N, L, E), mask (N, L) bool -> (N, C, H, W): residual attention of each position to the tokens that
    count, with a group norm before it. What it reads is 0 at the start.

    Each position is told where it stands (`place_embedding`), in what it carries on and in what it asks: next to pure noise the
    features alone hardly say it, and what a caption says of left and right or above and below is decided there.
    """

    def __init__(self, channels: int, token_dim: int, head_channels: int | None, groups: int, eps: float) -> None:
        super().__init__()
        self.heads = channels // (head_channels or channels)
        self.group_norm = GroupNorm(groups, channels, eps)
        self.to_q = nn.Linear(channels, channels)
        self.place_to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(token_dim, channels, bias=False)
        self.to_v = nn.Linear(token_dim, channels, bias=False)
        self.to_out = zero_initialised(nn.Linear(channels, channels))

    def forward(self, x: Tensor, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """Attend."""
        n, c, height, width = x.shape
        places = place_embedding(height, width, c, x.device).to(x.dtype)
        x = x + places.T.view(c, height, width)
        h = self.group_norm(x).flatten(2).transpose(1, 2)  # (N, H W, C)
        q = self._split(self.to_q(h) + self.place_to_q(places))
        k, v = self._split(self.to_k(tokens)), self._split(self.to_v(tokens))
        allowed = None if mask is None else mask[:, None, None, :]
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed).transpose(1, 2).reshape(n, height * width, c)
        return x + self.to_out(h).transpose(1, 2).reshape(n, c, height, width)

    def _split(self, h: Tensor) -> Tensor:
        return h.unflatten(2, (self.heads, -1)).transpose(1, 2)


def place_embedding(height: int, width: int, channels: int, device: torch.device | None = None) -> Tensor:
    """sin and cos of the row, then of the column, of each place of a grid: (H W, C), float32.

    The frequencies go from one wave over the picture to one wave in two places of the shorter side. Those of a sentence, which
    reach to 10000 positions, would hardly tell the few places of a grid apart.
    """
    quarter, least = channels // 4, min(height, width)
    cycles = (least / 2) ** torch.linspace(0, 1, quarter, device=device)

    def along(size: int) -> Tensor:
        centres = (torch.arange(size, device=device) + 0.5) / size
        angles = 2 * math.pi * centres[:, None] * cycles
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    rows, columns = along(height)[:, None].expand(-1, width, -1), along(width)[None].expand(height, -1, -1)
    places = torch.cat([rows, columns], dim=2).reshape(height * width, -1)
    return F.pad(places, (0, channels - 4 * quarter))


def zero_initialised(module: M) -> M:
    """The module with all parameters 0, so that a new branch changes nothing at the start."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class Downsample(nn.Module):
    """(N, C, H, W) -> (N, C, about H / 2, about W / 2) by a stride-2 convolution; an odd size rounds up ("both") or down ("after")."""

    def __init__(self, channels: int, padding: str) -> None:
        super().__init__()
        self.after = padding == "after"
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=0 if self.after else 1)

    def forward(self, x: Tensor) -> Tensor:
        """Halve the size."""
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.after else x)


class Upsample(nn.Module):
    """(N, C, h, w) -> (N, C, H, W): nearest neighbour to the given size, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: torch.Size) -> Tensor:
        """Grow to `size`, that of the skip connection, which need not be exactly twice x's."""
        return self.conv(F.interpolate(x, size=tuple(size), mode="nearest"))

"""Layers of the networks that are computed faster: subclasses with the same parameters, that take the place of `networks/layers.py`'s.

A layer reads the weights of its children and skips their `forward`. So it first checks, at each call, that nothing which it would skip is
customised (another class, as parametrizations and adapters make it, hooks, a `forward` of its own, another stride), and that the kernels
serve the input; otherwise it computes as the plain layer does.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as hooks

from ..kernels.fused import (
    DOUBLED,
    SINGLE,
    convolution,
    doubled_convolution,
    fits,
    fused_attention,
    fused_group_norm,
    norm_convolution,
    serves,
)
from ..networks.layers import Attention, GroupNorm, Pointwise, ResidualBlock, Upsample
from ..networks.unet import UNet


def is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a call of this module does nothing but the forward of its class: exactly `kind`, no hooks, no `forward` of its own."""
    return (
        type(module) is kind
        and not module._forward_hooks
        and not module._forward_pre_hooks
        and not module._backward_hooks
        and not module._backward_pre_hooks
        and "forward" not in module.__dict__
        and not hooks._has_any_global_hook()
    )


def is_plain_convolution(conv: nn.Module, size: int) -> bool:
    """Whether it is nothing but a convolution of size x size that keeps the size of the picture, in one group."""
    if not is_plain(conv, nn.Conv2d):
        return False
    conv = cast(nn.Conv2d, conv)
    return (
        conv.kernel_size == (size, size)
        and conv.stride == (1, 1)
        and conv.padding == (size // 2, size // 2)
        and conv.dilation == (1, 1)
        and conv.groups == 1
        and conv.padding_mode == "zeros"
    )


def used_type(weight: Tensor) -> torch.dtype:
    """The type in which a layer of this weight computes on a CPU: that of autocast, where it is on."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else weight.dtype


def takes(x: Tensor, weight: Tensor) -> bool:
    """Whether the kernels convolve x by this weight."""
    return serves(x) and x.dtype == used_type(weight) and fits(weight)


class FusedGroupNorm(GroupNorm):
    """The norm with its offset, scale, shift and SiLU in one operator."""

    def forward(
        self,
        x: Tensor,
        silu: bool = False,
        offset: Tensor | None = None,
        scale: Tensor | None = None,
        shift: Tensor | None = None,
    ) -> Tensor:
        """Normalise."""
        if not serves(x) or x.ndim != 4 or not self.affine:
            return super().forward(x, silu, offset, scale, shift)
        return fused_group_norm(x, *norm_rows(self, scale, shift), self.num_groups, self.eps, offset, silu)


def norm_rows(norm: GroupNorm, scale: Tensor | None, shift: Tensor | None) -> tuple[Tensor, Tensor]:
    """Gain and bias, (C,) or (N, C)."""
    gain = norm.weight if scale is None else norm.weight * (1 + scale.float())
    bias = norm.bias if scale is None else norm.bias * (1 + scale.float())
    return gain, bias if shift is None else bias + shift.float()


def convolves_norm(norm: nn.Module, conv: nn.Module, x: Tensor) -> bool:
    """Whether `convolved_norm` computes conv(norm(x, silu=True))."""
    return (
        serves(x)
        and is_plain(norm, FusedGroupNorm)
        and cast(GroupNorm, norm).affine
        and is_plain_convolution(conv, 3)
        and x.dtype == used_type(cast(nn.Conv2d, conv).weight)
    )


def convolved_norm(
    norm: GroupNorm,
    conv: nn.Conv2d,
    x: Tensor,
    offset: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    added: Tensor | None = None,
) -> Tensor:
    """conv(norm(x, silu=True, ...)) plus `added`, in one operator; of the pictures only x is kept for the backward pass."""
    rows = norm_rows(norm, scale, shift)
    return norm_convolution(x, *rows, norm.num_groups, norm.eps, offset, conv.weight, conv.bias, added)


class FusedResidualBlock(ResidualBlock):
    """Each norm with its convolution in one operator, the second one with the shortcut added, where nothing stands between them."""

    def first(self, x: Tensor, guide: Tensor | None) -> Tensor:
        """Norm, SiLU and convolution."""
        modulated = self.modulation1 is not None and guide is not None
        if modulated or not convolves_norm(self.norm1, self.conv1, x):
            return super().first(x, guide)
        return convolved_norm(self.norm1, self.conv1, x)

    def second(self, h: Tensor, rows: dict[str, Tensor], passed: Tensor, guide: Tensor | None) -> Tensor:
        """Norm, SiLU and convolution, plus what the shortcut passed."""
        modulated = self.modulation2 is not None and guide is not None
        if modulated or self._drops() or not convolves_norm(self.norm2, self.conv2, h):
            return super().second(h, rows, passed, guide)
        return convolved_norm(self.norm2, self.conv2, h, **rows, added=passed)

    def _drops(self) -> bool:
        dropout = self.dropout
        return not is_plain(dropout, nn.Dropout) or (dropout.training and dropout.p > 0)


class FusedPointwise(Pointwise):
    """A convolution of 1x1 by the kernels."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        if self.stride == (1, 1) and self.padding == (0, 0) and self.groups == 1 and takes(x, self.weight):
            return convolution(x, self.weight, self.bias, SINGLE)
        return super().forward(x)


class FusedAttention(Attention):
    """q, k and v are one convolution of 1x1, and the weights of the attention never leave the processor's cache."""

    def forward(self, x: Tensor) -> Tensor:
        """Attend."""
        layers = (self.to_q, self.to_k, self.to_v, self.to_out[0])
        if not serves(x) or not all(is_plain(layer, nn.Linear) and layer.bias is not None for layer in layers):
            return super().forward(x)
        h = self.group_norm(x)
        h = fused_attention(by_place(h, *joined(self.to_q, self.to_k, self.to_v)), self.heads)
        return by_place(h, *joined(cast(nn.Linear, self.to_out[0])), x)


def by_place(x: Tensor, weight: Tensor, bias: Tensor | None, added: Tensor | None = None) -> Tensor:
    """The convolution of x (N, C, H, W) by weight (O, C, 1, 1) and bias (O,), plus `added`.

    Linear layers of the channels are computed as convolutions: some processors multiply matrices of float32 at less than half the speed at which
    they convolve.
    """
    if takes(x, weight):
        return convolution(x, weight, bias, SINGLE, added)
    y = F.conv2d(x, weight, bias)
    return y if added is None else y + added


def joined(*layers: nn.Linear) -> tuple[Tensor, Tensor]:
    """The weight (O, C, 1, 1) and the bias of linear layers, one after the other, as a convolution has them."""
    weight = torch.cat([layer.weight for layer in layers])
    return weight[:, :, None, None], torch.cat([layer.bias for layer in layers])


class DoublingUpsample(Upsample):
    """On a CPU, nearest neighbour to twice the size and the convolution are one transposed convolution."""

    def forward(self, x: Tensor, size: torch.Size) -> Tensor:
        """Grow to `size`."""
        if x.device.type == "cpu" and is_doubled(x, size) and is_plain_convolution(self.conv, 3):
            return doubled_convolution(x, self.conv.weight, self.conv.bias)
        return super().forward(x, size)


class FusedUpsample(DoublingUpsample):
    """The same by the kernels where they serve."""

    def forward(self, x: Tensor, size: torch.Size) -> Tensor:
        """Grow to `size`."""
        if is_doubled(x, size) and is_plain_convolution(self.conv, 3) and takes(x, self.conv.weight):
            return convolution(x, self.conv.weight, self.conv.bias, DOUBLED)
        return super().forward(x, size)


def is_doubled(x: Tensor, size: torch.Size) -> bool:
    """Whether `size` is twice the size of x."""
    return tuple(size) == (2 * x.shape[-2], 2 * x.shape[-1])


class FusedUNet(UNet):
    """The last norm and its convolution are one operator."""

    def last(self, x: Tensor) -> Tensor:
        """Norm, SiLU and convolution to the channels of the output."""
        if not convolves_norm(self.conv_norm_out, self.conv_out, x):
            return super().last(x)
        return convolved_norm(self.conv_norm_out, self.conv_out, x)


NATIVE: dict[type[nn.Module], type[nn.Module]] = {Upsample: DoublingUpsample}
"""The layers that torch's own kernels compute faster in another form."""
FUSED: dict[type[nn.Module], type[nn.Module]] = {
    Attention: FusedAttention,
    GroupNorm: FusedGroupNorm,
    Pointwise: FusedPointwise,
    ResidualBlock: FusedResidualBlock,
    UNet: FusedUNet,
    Upsample: FusedUpsample,
}
"""The layers that the compiled kernels compute."""

"""Settings of the networks. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ..errors import ConfigurationError
from .base import Settings
from .kinds import OneOf

KINDS_OF_NETWORKS = "unet for pictures, mlp for points (from Python), or a kind of your own"


class NetworkSettings(Settings):
    """What the settings of every network have; a network of one's own subclasses it with a kind of its own."""

    kind: str = Field("unet", description=KINDS_OF_NETWORKS)


class UNetSettings(NetworkSettings):
    """The U-Net of DDPM and its descendants; the same family as diffusers' UNet2DModel."""

    kind: Literal["unet"] = Field("unet", description=KINDS_OF_NETWORKS)
    channels: list[int] = Field(
        [64, 128, 128], min_length=1, description="channels of each resolution, from full size down by halves"
    )
    patch: int = Field(
        1,
        ge=1,
        description="squares of this many pixels a side become the channels of one place before the first convolution, and pixels again after the last: 2 makes a step several times cheaper",
    )
    blocks: int = Field(2, ge=1, description="residual blocks of each resolution")
    attention: list[bool] = Field(
        [False, False, True], description="whether each resolution has attention after its residual blocks"
    )
    middle_attention: bool = Field(True, description="whether the middle has attention")
    head_channels: int | None = Field(
        None, ge=1, description="channels of one attention head; default: one head of all channels"
    )
    groups: int = Field(32, ge=1, description="groups of the group normalisation; must divide every channel count")
    norm_eps: float = Field(1e-5, gt=0, description="epsilon of the group normalisation")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout inside the residual blocks")
    time_mode: Literal["add", "scale_shift"] = Field(
        "add",
        description="how the time embedding enters a block: added (DDPM), or as scale and shift of a norm (ADM; the default with conditions)",
    )
    token_dim: int = Field(128, ge=1, description="length of a token that cross-attention looks at (text conditions)")
    modulation_channels: int = Field(
        32,
        ge=1,
        description="hidden channels between a semantic map and the scales and shifts that it gives (map conditions)",
    )
    sine_first: bool = Field(
        True, description="order of the sinusoidal embedding: sines then cosines (DDPM) or the reverse"
    )
    frequency_shift: int = Field(
        1, ge=0, le=1, description="divisor of the embedding's exponents: half - shift (DDPM: 1)"
    )
    down_padding: Literal["both", "after"] = Field(
        "both", description="zeros around the stride-2 convolution: on both sides, or after only (DDPM)"
    )

    @model_validator(mode="after")
    def _check(self) -> UNetSettings:
        if len(self.attention) != len(self.channels):
            raise ConfigurationError(
                f"network.attention needs one true/false for each of the {len(self.channels)} resolutions in network.channels, got {len(self.attention)}"
            )
        for c in self.channels:
            if c % self.groups:
                raise ConfigurationError(
                    f"network.groups = {self.groups} must divide every channel count, but {c} in network.channels is not a multiple"
                )
        attending = [c for c, attends in zip(self.channels, self.attention, strict=True) if attends]
        for c in [*attending, self.channels[-1]]:  # the middle attends to itself or to tokens
            if self.head_channels and c % self.head_channels:
                raise ConfigurationError(
                    f"network.head_channels = {self.head_channels} must divide the channels wherever there is attention and of the middle, got {c}"
                )
        return self


class MLPSettings(NetworkSettings):
    """A small residual network for points (N, D)."""

    kind: Literal["mlp"] = Field("mlp", description=KINDS_OF_NETWORKS)
    width: int = Field(128, ge=2, multiple_of=2, description="units of a hidden layer")
    layers: int = Field(3, ge=1, description="residual layers")


NETWORK_SETTINGS: dict[str, type[NetworkSettings]] = {"unet": UNetSettings, "mlp": MLPSettings}
"""The settings of each kind; `alphabar.networks.register` adds to it."""

NETWORKS = OneOf("network", NETWORK_SETTINGS, default="unet")
AnyNetwork = Annotated[NetworkSettings, NETWORKS]

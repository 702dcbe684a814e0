"""From a configuration to a denoiser."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from .conditions.base import Doors, Sizes
from .conditions.kinds import all_doors, build_encoders
from .diffusion.denoiser import Denoiser
from .diffusion.schedule import build_schedule
from .errors import ConfigurationError
from .networks.mlp import MLP
from .networks.unet import UNet, check_size
from .settings.config import Config
from .settings.networks import MLPSettings


def build_denoiser(config: Config, shape: Sequence[int]) -> Denoiser:
    """A denoiser with fresh weights, a function of config.seed, for data of this shape: (C, H, W), or (D,) for points."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = build_network(config, shape)
        sizes = Sizes(tuple(shape), int(network.vector_dim), int(network.token_dim))
        encoders = build_encoders(config.conditions, sizes)
        return Denoiser(network, build_schedule(config.schedule), config.diffusion, encoders)


def build_network(config: Config, shape: Sequence[int]) -> UNet | MLP:
    """The network of the configuration. Raises ConfigurationError where it does not fit the data."""
    channels, doors = shape[0], all_doors(config.conditions, shape)
    out_channels = channels * (2 if config.diffusion.learned_variance else 1)
    if isinstance(config.network, MLPSettings):
        if len(shape) != 1:
            raise ConfigurationError(
                f"network.kind=mlp is for points, the data has shape {tuple(shape)}; use network.kind=unet"
            )
        if doors != Doors():
            raise ConfigurationError(
                "network.kind=mlp takes conditions by vector only, such as class; use network.kind=unet"
            )
        return MLP(config.network, channels, out_channels)
    if len(shape) != 3:
        raise ConfigurationError(
            f"network.kind=unet is for pictures (C, H, W), the data has shape {tuple(shape)}; use network.kind=mlp"
        )
    check_size(config.network, shape[1], shape[2])
    return UNet(config.network, channels, out_channels, doors)


def pick_device(name: str) -> torch.device:
    """The device of this name; "auto" is CUDA, then MPS, then the CPU. Raises ConfigurationError if it is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigurationError(
            f"the device {name!r} (--device, or train.device) cannot be used: {str(error).splitlines()[0]}; see `alphabar doctor`"
        ) from None
    return device


def count_parameters(module: nn.Module) -> int:
    """The number of trainable numbers."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)

"""From a configuration to a denoiser."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from .conditions.base import Sizes
from .conditions.kinds import all_doors, build_encoders
from .diffusion.denoiser import Denoiser
from .diffusion.schedule import build_schedule
from .networks.base import Network, check_doors
from .networks.kinds import network_of
from .settings.config import Config


def build_denoiser(config: Config, shape: Sequence[int]) -> Denoiser:
    """A denoiser with fresh weights, a function of config.seed, for data of this shape: (C, H, W), or (D,) for points."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = build_network(config, shape)
        sizes = Sizes(tuple(shape), network.vector_dim, network.token_dim)
        encoders = build_encoders(config.conditions, sizes)
        return Denoiser(network, build_schedule(config.schedule), config.diffusion, encoders)


def build_network(config: Config, shape: Sequence[int]) -> Network:
    """The network of the configuration. Raises ConfigurationError where it does not fit the data or the conditions."""
    settings, doors = config.network, all_doors(config.conditions, shape)
    network = network_of(settings)
    network.check_shape(settings, shape)
    check_doors(settings.kind, network, doors)
    return network.build(settings, shape, shape[0] * (2 if config.diffusion.learned_variance else 1), doors)


def count_parameters(module: nn.Module) -> int:
    """The number of trainable numbers."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)

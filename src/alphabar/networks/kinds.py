"""The networks by kind."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import MissingRegistration, nearest
from ..settings.networks import NETWORK_SETTINGS, MLPSettings, NetworkSettings, UNetSettings
from .base import Network
from .mlp import MLP
from .unet import UNet


@dataclass(frozen=True)
class NetworkKind:
    """The settings and the class of a kind of network."""

    settings: type[NetworkSettings]
    network: type[Network]


NETWORKS: dict[str, NetworkKind] = {
    "unet": NetworkKind(UNetSettings, UNet),
    "mlp": NetworkKind(MLPSettings, MLP),
}


def register(kind: str, settings: type[NetworkSettings], network: type[Network]) -> None:
    """Make a network of one's own known as `network.kind=KIND`: it can be trained, saved, loaded, sampled from and exported.

    Only this process knows it then; a run that uses it says so where it is not registered.
    """
    NETWORKS[kind] = NetworkKind(settings, network)
    NETWORK_SETTINGS[kind] = settings


def network_of(settings: NetworkSettings) -> type[Network]:
    """The class of these settings' kind. Raises MissingRegistration if there is none."""
    if settings.kind not in NETWORKS:
        raise MissingRegistration(
            f"network.kind: {settings.kind!r} is not registered; {nearest(settings.kind, NETWORKS)}"
        )
    return NETWORKS[settings.kind].network

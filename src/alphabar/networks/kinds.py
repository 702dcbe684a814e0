"""The networks by kind."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ConfigurationError, MissingRegistration, nearest
from ..settings.kinds import check_registration
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
BUILTIN = frozenset(NETWORKS)
"""The kinds that a registration cannot replace."""


def register(kind: str, settings: type[NetworkSettings], network: type[Network]) -> None:
    """Make a network of one's own known as `network.kind=KIND`: it can be trained, saved, loaded, sampled from and exported.

    Only this process knows it then; a run that uses it says so where it is not registered. Raises ConfigurationError if the kind is
    built in or belongs to a class of another name, if a class is of the wrong type, or if the settings are of another kind.
    """
    if not (isinstance(network, type) and issubclass(network, Network)):
        raise ConfigurationError(
            f"network kind {kind!r} needs a subclass of alphabar.networks.Network, got {network!r}"
        )
    if not (isinstance(settings, type) and issubclass(settings, NetworkSettings)):
        raise ConfigurationError(
            f"network kind {kind!r} needs settings that subclass NetworkSettings, got {settings!r}"
        )
    if settings.model_fields["kind"].default != kind:
        raise ConfigurationError(
            f"network kind {kind!r}: {settings.__qualname__} has the kind {settings.model_fields['kind'].default!r}; "
            f'write kind: Literal["{kind}"] = "{kind}" in it'
        )
    present = NETWORKS[kind].network if kind in NETWORKS else None
    check_registration("network", kind, BUILTIN, present, network)
    NETWORKS[kind] = NetworkKind(settings, network)
    NETWORK_SETTINGS[kind] = settings


def network_of(settings: NetworkSettings) -> type[Network]:
    """The class of these settings' kind. Raises MissingRegistration if there is none."""
    if settings.kind not in NETWORKS:
        raise MissingRegistration(
            f"network.kind: {settings.kind!r} is not registered; {nearest(settings.kind, NETWORKS)}"
        )
    return NETWORKS[settings.kind].network

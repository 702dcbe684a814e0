"""Registrations of kinds that end with a test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from alphabar import plugins
from alphabar.conditions.kinds import KINDS
from alphabar.networks.kinds import NETWORKS
from alphabar.settings.conditions import CONDITION_SETTINGS
from alphabar.settings.networks import NETWORK_SETTINGS


@contextmanager
def registrations_forgotten() -> Iterator[None]:
    """What is registered inside the block is not known after it."""
    known = (KINDS, CONDITION_SETTINGS, NETWORKS, NETWORK_SETTINGS, plugins.LOADED)
    before = [dict(each) for each in known]
    try:
        yield
    finally:
        for each, entries in zip(known, before, strict=True):
            each.clear()
            each.update(entries)

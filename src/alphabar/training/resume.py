"""What a run that goes on may be given: other lengths and reports, and the same data and conditions, wherever they lie now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..conditions.kinds import read_settings
from ..data.pictures import PictureSet
from ..data.readers import Conditions
from ..errors import ConfigurationError, DataError
from ..settings.conditions import not_a_section, read_condition
from ..settings.config import Config, merge, validate
from ..settings.data import DataSettings
from ..settings.training import RESUMABLE
from .data import RunData

MAY_MOVE = {"source", "path", "memory_gb", "strict"}
"""Settings of the data that say where it is and how it is read, not what it is."""
PLACES = {"column", "folder"}
"""Settings of a condition that say where its values are; what they are, the data's fingerprint tells."""


def cannot_change(name: str) -> ConfigurationError:
    """The error for a setting that would make a resumed run another run."""
    return ConfigurationError(
        f"{name} cannot change when a run goes on (it would be another run); it may only for: train.{', train.'.join(sorted(RESUMABLE))}"
    )


def changed_config(config: Config, values: Mapping[str, Any]) -> Config:
    """The saved configuration with the changes that a resumed run may make, those of data and conditions apart.

    Raises ConfigurationError for any other.
    """
    saved = config.model_dump()
    changes = {key: value for key, value in values.items() if key not in ("data", "conditions")}
    if changes.get("preset") in ("auto", config.preset):
        changes.pop("preset")
    if isinstance(changes.get("train"), Mapping) and changes["train"].get("steps", 0) is None:
        changes["train"] = {key: value for key, value in changes["train"].items() if key != "steps"}
    changed = validate(Config, merge(saved, changes))
    for section, value in changed.model_dump().items():
        for key in (
            [key for key in value if value[key] != saved[section].get(key)]
            if isinstance(value, dict)
            else [""] * (value != saved[section])
        ):
            if section != "train" or key not in RESUMABLE:
                raise cannot_change(f"{section}.{key}".rstrip("."))
    return changed


def resumed_data(saved: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The saved settings of the data with those that are given over them. Raises ConfigurationError for another way to read it."""
    merged = merge(saved, given)
    before, after = validate(DataSettings, saved), validate(DataSettings, merged)
    for name in DataSettings.model_fields:
        left_open = name in ("class_from", "flip", "conditions") and getattr(after, name) in ("auto", None)
        if name not in MAY_MOVE and not left_open and getattr(after, name) != getattr(before, name):
            raise ConfigurationError(f"data.{name} cannot change when a run goes on (it would be another run)")
    return merged


def resumed_conditions(
    saved: Conditions, given: Mapping[str, Any], used: list[str] | None
) -> dict[str, dict[str, Any]]:
    """The saved conditions with what is given over them: values may have moved, and a file of classes is read.

    used: data.conditions as it is given; what is set of others has no effect. Raises ConfigurationError for any real change.
    """
    found = {name: dict(own) for name, own in saved.items()}
    for name, own in given.items():
        if own is None or (used is not None and name not in used):
            continue
        if name not in saved:
            raise cannot_change(f"conditions.{name}")
        if not isinstance(own, Mapping):
            raise not_a_section(name, own)
        found[name] = read_settings(name, merge(saved[name], own)).model_dump()
        if not same_condition(name, saved[name], found[name]):
            raise cannot_change(f"conditions.{name}")
    return found


def same_condition(name: str, saved: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """Whether the settings found for a condition mean what the saved ones do: its values may lie elsewhere, and a pretrained model
    is known by its hash (by its folder in a run that has none)."""
    before = read_condition(name, saved).model_dump()  # with the defaults of settings that are younger than the run
    passed_over = PLACES | {"pretrained" if before.get("pretrained_hash") else "pretrained_hash", "instances"}
    same_doors = (before.get("instances") is None) == (found.get("instances") is None)
    return same_doors and all(found.get(key) == value for key, value in before.items() if key not in passed_over)


def check_conditions(source: RunData, config: Config) -> None:
    """Raise DataError if the data's conditions, its classes among them, are not those that the run was trained with."""
    if source.conditions is None:
        own = source.train.classes if isinstance(source.train, PictureSet) else config.classes
        differ = ["class"] if own != config.classes else []
    else:
        found = {name: read_settings(name, v).model_dump() for name, v in source.conditions.items()}
        saved = config.condition_values
        shared = found.keys() & saved.keys()
        differ = [n for n in {**found, **saved} if n not in shared or not same_condition(n, saved[n], found[n])]
    if differ:
        raise DataError(
            f"the data's {', '.join(differ)} is not that of the run (its classes: {', '.join(config.classes) or 'none'}); give data with the same conditions"
        )

"""The data of a run: read, or taken as it is given from Python, with the settings that it fills in."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..conditions.kinds import kind_of, load_with_conditions, read_settings
from ..data.found import DataReport
from ..data.load import Progress
from ..data.pictures import PictureSet, TrainingData
from ..data.readers import Conditions
from ..errors import ConfigurationError
from ..runs.folder import is_cache
from ..settings.config import Config, finish, merge, preset_values, validate
from ..settings.data import DataSettings

CACHE = Path("cache") / "pictures.npy"
OWN_DATA = "(given from Python)"


@dataclass(frozen=True)
class RunData:
    """What is trained on and what is held out; of data that was read also the report, and what it says of the settings."""

    train: TrainingData
    held_out: TrainingData | None
    report: DataReport | None = None
    settings: DataSettings | None = None
    conditions: Conditions | None = None

    @classmethod
    def read(
        cls,
        data: str | Path | TrainingData | None,
        held_out: TrainingData | None,
        values: Mapping[str, Any],
        out: Path,
        progress: Progress | None,
    ) -> RunData:
        """Load the source that is named, or take the object that is given as it is."""
        if data is not None and not isinstance(data, str | Path):
            return cls(data, held_out)
        wanted = preset_free(values.get("data") or {}, values.get("preset"))
        settings = validate(DataSettings, wanted | ({} if data is None else {"source": str(data)}))
        set_ = {name: v for name, v in (values.get("conditions") or {}).items() if v is not None}
        loaded = load_with_conditions(settings, out / CACHE, progress, set_)
        return cls(loaded.train, loaded.held_out, loaded.report, loaded.settings, loaded.conditions)

    @property
    def fingerprint(self) -> str:
        """A hash of all that training sees."""
        return self.report.fingerprint if self.report else self.train.fingerprint()

    def config(self, values: Mapping[str, Any]) -> Config:
        """The configuration with what the data says filled in."""
        filled = dict(values)
        own = {**(values.get("data") or {}), "source": OWN_DATA}
        found = self._own_conditions(values) if self.conditions is None else self.conditions
        conditions = {name: read_settings(name, v).model_dump() for name, v in found.items() if v is not None}
        read = own if self.settings is None else self.settings.model_dump()
        filled |= {"data": {**read, "flip": choose_flip(values, conditions)}, "conditions": conditions}
        if conditions:
            filled["network"] = conditional_network(values)
        return finish(filled, self.train.shape[1:] or (1,))

    def _own_conditions(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The conditions of data given from Python: those that are set, and for a PictureSet all that it holds."""
        found = {name: v for name, v in (values.get("conditions") or {}).items() if v is not None}
        if not isinstance(self.train, PictureSet):
            return found
        own = found.pop("class", {})
        held = {"class": {**own, "classes": self.train.classes}} if self.train.labels is not None else {}
        for name, column in self.train.values.items():
            settings = found.get(name, {})
            held[name] = (
                kind_of(name, settings).reader.settle(read_settings(name, settings), np.asarray(column[:])).model_dump()
            )
        wanted = (values.get("data") or {}).get("conditions")
        offered = held | {name: v for name, v in found.items() if name not in held}
        for name in wanted or ():
            if name not in offered:
                raise ConfigurationError(
                    f"data.conditions: the data has no {name!r}; it has: {', '.join(offered) or 'none'}"
                )
        return offered if wanted is None else {name: offered[name] for name in wanted}


def choose_flip(values: Mapping[str, Any], conditions: Conditions) -> Any:
    """data.flip: what is set, otherwise what a named preset says, but never by a preset with a condition that does not fit a
    mirrored picture, such as a caption of left and right."""
    own = values.get("data") or {}
    flip = preset_free(own, values.get("preset")).get("flip")
    may_flip = own.get("flip") is not None or all(kind_of(name, v).reader.mirrors for name, v in conditions.items())
    return flip if flip and may_flip else False


def conditional_network(values: Mapping[str, Any]) -> dict[str, Any]:
    """The network's settings, with scale-shift normalisation (Dhariwal & Nichol 2021) unless they or the preset say otherwise."""
    own, preset = values.get("network") or {}, values.get("preset", "auto")
    under = {} if preset == "auto" else preset_values(str(preset)).get("network", {})
    open_ = own.get("kind", "unet") == "unet" and "time_mode" not in {**under, **own}
    return {**own, "time_mode": "scale_shift"} if open_ else dict(own)


def preset_free(data: Mapping[str, Any], preset: str | None) -> dict[str, Any]:
    """The data settings with those of a named preset under them ("auto" has none)."""
    return dict(data) if preset in (None, "auto") else merge(preset_values(str(preset)).get("data", {}), data)


def remove_cache(out: Path) -> None:
    """Remove the decoded pictures and values beside a run, and the folders that held nothing else."""
    if is_cache((out / CACHE).parent):
        for path in (out / CACHE).parent.iterdir():
            path.unlink()
    for folder in ((out / CACHE).parent, out):
        with contextlib.suppress(OSError):  # not empty, or never made
            folder.rmdir()

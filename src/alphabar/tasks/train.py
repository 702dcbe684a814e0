"""The request of `alphabar train`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, model_validator

from ..errors import ConfigurationError
from ..settings.config import PRESETS, Config
from ..settings.data import DataSettings
from ..settings.training import PrecisionName, TrainSettings
from .base import Request, Words
from .fields import argument, like, option, plugin_option

LENGTH, CONDITIONS, SETTINGS, GO_ON = "Length", "Data and conditions", "Settings", "Going on"


def as_pairs(value: Any) -> Any:
    """A mapping of settings as KEY=VALUE words; anything else as it is."""
    if not isinstance(value, Mapping):
        return value
    return tuple(
        f"{key}={v if isinstance(v, str) else json.dumps(v, ensure_ascii=False, default=str)}"
        for key, v in value.items()
    )


class TrainRequest(Request):
    """A training on a person's own pictures."""

    name: ClassVar[str] = "train"
    examples: ClassVar[tuple[str, str, str]] = (
        "alphabar train photos --out runs/photos --minutes 30",
        "alphabar train photos --out runs/pets --class-from folder --set data.size=64",
        "alphabar train --out runs/photos --resume --steps 20000",
    )
    details: ClassVar[str] = (
        "Says what is in the data and what is going to happen, then trains into the run folder. Ctrl-C saves; --resume goes on."
    )

    data: str | None = argument(
        "A folder of pictures, a .npz or .npy file, or a built-in set: digits, fashion-mnist.", None, metavar="DATA"
    )
    out: Path = option(
        "The run folder to make (or to go on with, with --resume).", ..., flags="--out -o", metavar="RUN", panel=LENGTH
    )
    steps: int | None = option("Optimizer steps in all.", panel=LENGTH, ge=1)
    minutes: float | None = option(
        "Time to use instead: the speed is measured, then the steps are fixed. Default: 30 (2 for preset tiny).",
        metavar="MINUTES",
        panel=LENGTH,
        gt=0,
    )
    dry_run: bool = option("Say what is in the data and what would happen, then stop.", False, panel=LENGTH)
    cond: Words | None = option(
        "What pictures are conditioned on: class,text,map,image, or none. Default: all that the data offers (folders only with class).",
        metavar="KIND,KIND",
        panel=CONDITIONS,
    )
    class_from: str | None = like(
        DataSettings, "class_from", head="where classes come from: ", metavar="WHERE", panel=CONDITIONS
    )
    task: str | None = option(
        "An image condition made from the pictures: super-resolution, colorize, inpaint, edges; or pair.",
        metavar="NAME",
        panel=CONDITIONS,
    )
    scale: int | None = option("Of --task super-resolution. Default: 4.", panel=CONDITIONS, ge=2)
    maps: Path | None = option(
        "A folder with semantic maps of the pictures' names.", metavar="FOLDER", panel=CONDITIONS
    )
    images: Path | None = option(
        "A folder with conditioning pictures of the pictures' names.", metavar="FOLDER", panel=CONDITIONS
    )
    flip: bool | None = like(DataSettings, "flip", panel=CONDITIONS)
    strict: bool = option("Refuse data with unreadable pictures.", False, panel=CONDITIONS)
    preset: str | None = option(
        f"The settings to start from: {', '.join(PRESETS)}, or auto (by the size of the pictures and the time). Default: auto.",
        metavar="NAME",
        panel=SETTINGS,
    )
    settings: Annotated[tuple[str, ...], BeforeValidator(as_pairs)] = option(
        "Any setting, for example data.size=64. `alphabar settings` lists them. May be repeated.",
        (),
        flags="--set",
        metavar="KEY=VALUE",
        panel=SETTINGS,
    )
    config: Path | None = option(
        "A YAML file of settings, such as the config.yaml of a run.", metavar="FILE", panel=SETTINGS
    )
    precision: PrecisionName | None = like(TrainSettings, "precision", metavar="NAME", panel=SETTINGS)
    seed: int | None = like(Config, "seed", panel=SETTINGS)
    plugin: tuple[str, ...] = plugin_option(SETTINGS)
    resume: bool = option(
        "Go on from the newest checkpoint, exactly as if the training had never stopped.", False, panel=GO_ON
    )
    init: Path | None = option(
        "Fine-tune: start a new run from the network and weights of this one.", metavar="RUN", panel=GO_ON
    )
    accept_changed_data: bool = option("With --resume: go on although the data differs.", False, panel=GO_ON)

    @model_validator(mode="after")
    def _check(self) -> TrainRequest:
        if self.data is None and not self.resume and self.config is None:
            raise ConfigurationError(
                "what should it train on? alphabar train DATA --out RUN, with DATA a folder of pictures, an array file, digits or fashion-mnist"
            )
        if self.steps is not None and self.minutes is not None:
            raise ConfigurationError("--steps and --minutes say the same thing twice; give one")
        self._check_conditions()
        return self

    def _check_conditions(self) -> None:
        names = self.conditions
        if names is not None and "class" in names and self.class_from == "none":
            raise ConfigurationError("--cond class but --class-from none; leave one of them out")
        if self.scale is not None and self.task != "super-resolution":
            raise ConfigurationError("--scale goes with --task super-resolution")
        if names is not None and (self.task or self.images) and "image" not in names:
            raise ConfigurationError(
                f"--task and --images are about the condition image; add it: --cond {self.cond},image"
            )
        if names is not None and self.maps and "map" not in names:
            raise ConfigurationError(f"--maps is about the condition map; add it: --cond {self.cond},map")

    @property
    def conditions(self) -> list[str] | None:
        """The conditions by name; None leaves them to the data."""
        return None if self.cond is None else [word.strip() for word in self.cond.split(",") if word.strip() != "none"]

    def overrides(self) -> list[str]:
        """All options that are settings, as KEY=VALUE words in the order in which they are laid over each other."""
        values = {
            "data.class_from": self.class_from,
            "data.strict": "true" if self.strict else None,
            "data.conditions": None if self.conditions is None else f"[{', '.join(self.conditions)}]",
            "conditions.image.task": self.task,
            "conditions.image.scale": self.scale,
            "conditions.map.folder": None if self.maps is None else json.dumps(str(self.maps), ensure_ascii=False),
            "conditions.image.folder": None if self.images is None else json.dumps(str(self.images), ensure_ascii=False),
            "data.flip": None if self.flip is None else str(self.flip).lower(),
            "seed": self.seed,
            "train.precision": self.precision,
        }  # fmt: skip
        return [*self.settings, *(f"{key}={value}" for key, value in values.items() if value is not None)]

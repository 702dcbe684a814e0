"""The whole configuration of a run: its parts, the presets, and how files and options are laid over them. Imports no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, cast, get_args

from pydantic import Field, field_validator
from pydantic.fields import FieldInfo

from ..errors import ConfigurationError, nearest, unknown
from .base import DiffusionSettings, LossSettings, SampleSettings, ScheduleSettings, Settings, validate
from .conditions import AnyCondition, read_condition
from .data import DataSettings
from .kinds import OneOf
from .networks import AnyNetwork, UNetSettings
from .training import TrainSettings


class Config(Settings):
    """Everything that a run depends on. Saved whole as config.yaml; a run can be repeated from it."""

    preset: str = Field("auto", description="what the settings started from: auto, or one of the presets")
    seed: int = Field(0, ge=0, description="of weights, data order, times and noise")
    data: DataSettings = Field(default_factory=DataSettings)
    schedule: ScheduleSettings = Field(default_factory=ScheduleSettings)
    diffusion: DiffusionSettings = Field(default_factory=DiffusionSettings)
    network: AnyNetwork = Field(default_factory=UNetSettings)
    conditions: dict[str, AnyCondition] = Field(
        default_factory=dict,
        description="the settings of each condition by name (class, text, map, image, or your own with kind: ...); filled in from the data",
    )
    loss: LossSettings = Field(default_factory=LossSettings)
    train: TrainSettings = Field(default_factory=TrainSettings)
    sample: SampleSettings = Field(default_factory=SampleSettings)

    @field_validator("conditions", mode="before")
    @classmethod
    def _read_conditions(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {name: read_condition(name, v) for name, v in value.items() if v is not None}

    @property
    def condition_values(self) -> dict[str, dict[str, Any]]:
        """The settings of the conditions by name as plain values, as data is told them."""
        return {name: settings.model_dump() for name, settings in self.conditions.items()}

    @property
    def classes(self) -> list[str]:
        """The class names, empty where the model has no classes."""
        return list(getattr(self.conditions.get("class"), "classes", []))


SECTIONS = {name for name in Config.model_fields if name not in ("preset", "seed")}
Overrides = Mapping[str, Any] | Sequence[str]

SMALL_NETWORK = {"channels": [24, 48, 96], "blocks": 1, "attention": [False, False, True], "groups": 8}
SMALL: dict[str, dict[str, Any]] = {
    "network": SMALL_NETWORK,
    "diffusion": {"prediction": "v"},
    "loss": {"times": "cosine"},
    "train": {"optimizer": "muon", "learning_rate": 4e-3, "batch_size": 64, "rate": "cosine"},
}
PRESETS: dict[str, dict[str, Any]] = {
    # For pictures up to 16 pixels: 0.7 M parameters, learns the digits in two minutes on two cores.
    "tiny": {
        "network": {"channels": [32, 64], "blocks": 1, "attention": [False, True], "groups": 8},
        "train": {"learning_rate": 2e-3, "minutes": 2.0},
    },
    # "small" with fewer channels, 0.7 M parameters, and a short warm-up, for minutes that are few for it: more steps are worth more then.
    "quick": SMALL | {
        "network": SMALL_NETWORK | {"channels": [16, 32, 64]},
        "train": SMALL["train"] | {"warm_up": 50},
    },
    # For 28 to 64 pixels on a CPU: 1.5 M parameters, trained by the best recipe found so far (benchmarks/RESULTS.md, The recipe).
    "small": SMALL,
    # The network of "small" with the training of the derivation (Ho et al. 2020).
    "ddpm": {"network": SMALL_NETWORK, "train": {"learning_rate": 1e-3, "batch_size": 64}},
    # The 35.7 M network and the training of Ho et al. 2020 on CIFAR-10 (app. B); made for a GPU.
    "ddpm-cifar10": {
        "data": {"size": [32, 32], "flip": True},
        "network": {
            "channels": [128, 256, 256, 256], "blocks": 2, "attention": [False, True, False, False], "dropout": 0.1,
            "norm_eps": 1e-6, "down_padding": "after",
        },
        "train": {"steps": 800_000, "batch_size": 128, "learning_rate": 2e-4, "warm_up": 5000, "checkpoint_every": 10_000},
        "sample": {"sampler": "ancestral", "variance": "beta", "steps": 1000},
    },
}  # fmt: skip
"""All share T = 1000 linear betas; all but "small" and "quick" eps prediction, the simple loss, uniform times and a constant rate, as in DDPM."""

LARGEST_TINY = 16
FEW_STEPS = 1100  # below so many steps of "small", "quick" makes better pictures in the same time (benchmarks/RESULTS.md, The recipe)
OF_A_CONDITION = re.compile(r"conditions\.\w+\.\w+")


def auto_preset(size: Sequence[int]) -> str:
    """The preset that "auto" takes for pictures of this height and width, if there is time enough."""
    return "tiny" if max(size) <= LARGEST_TINY else "small"


def resolve(preset: str | None = None, file: Path | None = None, overrides: Overrides = ()) -> dict[str, Any]:
    """The settings as nested values: what the file says, then overrides, `{"key": value}` or `["key=value"]`, over it.

    The preset, if it is "auto", stays open until the size of the data is known (`finish`). Raises ConfigurationError.
    """
    values = read_yaml(file) if file else {}
    pairs = overrides.items() if isinstance(overrides, Mapping) else map(parse_override, overrides)
    for key, value in pairs:
        values = merge(values, nested(key, value))
    return values if preset is None else {**values, "preset": preset}


def finish(values: Mapping[str, Any], size: Sequence[int]) -> Config:
    """The configuration for pictures of this size: the preset under the values, everything checked. Raises ConfigurationError."""
    name = values.get("preset", "auto")
    chosen = auto_preset(size) if name == "auto" else name
    under = preset_values(chosen)
    kind = (values.get("network") or {}).get("kind", "unet")
    under["network"] = {"kind": kind} | (under.get("network", {}) if kind == "unet" else {})  # presets describe U-Nets
    return validate(Config, merge(under, {**values, "preset": chosen}))


def preset_values(name: str) -> dict[str, Any]:
    """The settings of a preset. Raises ConfigurationError, naming the nearest one, if there is none of this name."""
    if name not in PRESETS:
        raise unknown("preset", name, ["auto", *PRESETS])
    return merge({}, PRESETS[name])


def merge(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values with those of `high` laid over `low`; lists are replaced whole."""
    out = dict(low)
    for key, value in high.items():
        out[key] = (
            merge(out.get(key) or {}, value)
            if isinstance(value, Mapping) and isinstance(out.get(key, {}), Mapping)
            else value
        )
    return out


def parse_override(text: str) -> tuple[str, Any]:
    """'train.steps=100' -> ('train.steps', 100). The value is read as YAML, or kept as it is for a setting that is text."""
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigurationError(f"--set takes key=value, for example train.batch_size=64; got {text!r}")
    import yaml

    field = dict(all_fields()).get(key.strip())
    if field is not None and (field.annotation is str or str in _members(field.annotation)):
        return key.strip(), None if value in ("null", "~") else unquoted(value)
    try:
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError:
        return key.strip(), value


def unquoted(value: str) -> str:
    """Text without the double quotes around it, read as JSON where it has some and is JSON."""
    try:
        text = json.loads(value) if value.startswith('"') else value
    except ValueError:
        return value
    return text if isinstance(text, str) else value


def _members(annotation: Any) -> tuple[Any, ...]:
    """What a union is made of; () for any other type, such as a list of str."""
    return get_args(annotation) if isinstance(annotation, UnionType) else ()


def nested(key: str, value: Any) -> dict[str, Any]:
    """('train.steps', 100) -> {'train': {'steps': 100}}. Raises ConfigurationError for an unknown key, naming the nearest one."""
    known = {name for name, _ in all_fields()}
    if key not in known and not OF_A_CONDITION.fullmatch(key):  # these are checked by their kind
        raise (
            unknown("key", key, known)
            if "." not in key
            else ConfigurationError(f"unknown key {key!r}; {_nearest_key(key, known)}")
        )
    for part in reversed(key.split(".")):
        value = {part: value}
    return cast(dict[str, Any], value)


def _nearest_key(key: str, known: set[str]) -> str:
    room = key.split(".")[0]
    return nearest(key, {name for name in known if name.startswith(f"{room}.")} or known)


def all_fields(model: type[Settings] = Config, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every setting as (dotted key, field), sections in their order; of conditions those of each kind, under its name."""
    for name, field in model.model_fields.items():
        inner = list(_sections(field))
        if not inner:
            yield f"{prefix}{name}", field
        for section, settings in inner:
            yield from all_fields(settings, f"{prefix}{name}.{section}")


def _sections(field: FieldInfo) -> Iterator[tuple[str, type[Settings]]]:
    """The settings models that a field holds, each with what stands between its keys and the field's."""
    choices = [extra for extra in field.metadata if isinstance(extra, OneOf)]
    entries = [
        e for part in get_args(field.annotation) for e in getattr(part, "__metadata__", ()) if isinstance(e, OneOf)
    ]
    for choice in choices:
        yield from (("", settings) for settings in choice.known.values())
    for entry in entries:
        yield from ((f"{kind}.", settings) for kind, settings in entry.known.items())
    if not choices and isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
        yield "", field.annotation


def read_yaml(path: Path) -> dict[str, Any]:
    """A configuration file as nested values. Raises ConfigurationError if it is missing or not a mapping."""
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigurationError(f"no configuration file {path}") from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigurationError(f"cannot read {path}: {str(error).splitlines()[0]}") from None
    if values is not None and not isinstance(values, dict):
        raise ConfigurationError(f"{path} must hold 'section: {{key: value}}', got {type(values).__name__}")
    for section, value in (values or {}).items():
        if section in SECTIONS and not isinstance(value, dict | None):
            raise ConfigurationError(f"{path}: {section} must be a section of key: value lines, got {value!r}")
    return values or {}


def to_yaml(config: Config) -> str:
    """The whole configuration as YAML."""
    import yaml

    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)

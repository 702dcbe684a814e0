"""Settings of conditions: what all kinds share, and those of each kind. They read no file; that is the readers' work."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from ..errors import ConfigurationError
from .base import Settings, validate
from .kinds import OneOf

NOTHING = 255
"""The index of a pixel of a map without a class, and of all pixels of a null map: its one-hot vector is zero."""
PAIR_COLUMN = "conditioning_image_file_name"
MAP_COLUMN = "map_file_name"


class ConditionSettings(Settings):
    """Settings of one condition."""

    kind: str | None = Field(None, description="class, text, map or image; default: the condition's name")
    dropout: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="probability that training hides the condition, so that the model also learns to do without",
    )


class ClassSettings(ConditionSettings):
    """A class of each picture."""

    classes: list[str] = Field(
        default_factory=list, description="the class names, in the order of their numbers; default: those of the data"
    )


class TextSettings(ConditionSettings):
    """A caption of each picture."""

    column: str = Field("text", description="the column of the metadata; without metadata: name.txt beside name.jpg")
    length: int = Field(64, ge=1, description="words of a caption that are read; what is longer is cut")
    width: int = Field(128, ge=8, multiple_of=4, description="channels inside the byte-level encoder")
    layers: int = Field(2, ge=0, description="transformer layers of the byte-level encoder")
    pretrained: str | None = Field(
        None,
        description="a local folder with a text model of the transformers library (BERT and its kin, CLIP, T5), used frozen instead",
    )
    pretrained_hash: str | None = Field(
        None, description="names the weights of the pretrained model; filled in, and checked whenever the model is used"
    )

    @field_validator("pretrained")
    @classmethod
    def _resolve(cls, value: str | None) -> str | None:
        return None if value is None else str(Path(value).expanduser().absolute())  # a run is used from anywhere


class MapSettings(ConditionSettings):
    """A semantic map of each picture."""

    column: str = Field(MAP_COLUMN, description="the column of the metadata that names the map of each picture")
    folder: str | None = Field(None, description="a folder with maps of the pictures' names, instead of a column")
    classes: list[str] = Field(
        default_factory=list,
        description="class names by index, or a file of them (.txt a name a line; .csv index,name,colour; .json); default: from the data",
    )
    colours: list[str] = Field(
        default_factory=list,
        description="#rrggbb of each class, for pictures of maps; default: those of the class file or of the palette",
    )
    ignore: int | None = Field(NOTHING, ge=0, le=255, description="the index of pixels that belong to no class")
    door: Literal["modulation", "concat"] = Field(
        "modulation", description="spatially adaptive normalisation, or concatenation with the input"
    )
    instances: str | None = Field(
        None,
        description="a column or a folder of instance maps (a number an object): their edges become one more channel",
    )
    swap: list[list[int]] = Field(
        default_factory=list,
        description="pairs of classes, such as left and right, that change places in a mirrored picture",
    )

    @field_validator("swap")
    @classmethod
    def _swap_pairs(cls, value: list[list[int]]) -> list[list[int]]:
        if any(len(pair) != 2 or not all(0 <= i < NOTHING for i in pair) for pair in value):
            raise ConfigurationError(f"swap takes pairs of class indices such as [[4, 5]], got {value}")
        return value

    @field_validator("colours")
    @classmethod
    def _known_colours(cls, value: list[str]) -> list[str]:
        for colour in value:
            check_colour(colour, "colours")
        return value

    @field_validator("classes")
    @classmethod
    def _leave_room_for_nothing(cls, value: list[str]) -> list[str]:
        if len(value) > NOTHING:
            raise ConfigurationError(f"a map may have up to {NOTHING} classes, got {len(value)}")
        return value


class ImageSettings(ConditionSettings):
    """A picture that goes with each picture."""

    task: Literal["pair", "super-resolution", "colorize", "inpaint", "edges"] = Field(
        "pair", description="pair (given by the data), or made from the picture itself"
    )
    column: str = Field(PAIR_COLUMN, description="task=pair: the column of the metadata that names the pair")
    folder: str | None = Field(
        None, description="task=pair: a folder with pictures of the same names, instead of a column"
    )
    channels: Literal[1, 3] | None = Field(
        None, description="task=pair: 1 grey, 3 colour; default: 1 if the pairs are grey"
    )
    background: str | None = Field(None, description="the colour behind transparent pixels; default: data.background")
    scale: int = Field(4, ge=2, description="task=super-resolution: how many times smaller the input is")
    augmentation: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="task=super-resolution: training adds noise of up to this standard deviation to the input and tells the network how much",
    )


CONDITION_SETTINGS: dict[str, type[ConditionSettings]] = {
    "class": ClassSettings,
    "text": TextSettings,
    "map": MapSettings,
    "image": ImageSettings,
}
"""The settings of each kind; `alphabar.conditions.kinds.register` adds to it."""

CONDITIONS = OneOf("condition", CONDITION_SETTINGS)
AnyCondition = Annotated[ConditionSettings, CONDITIONS]


def read_condition(name: str, values: Any) -> ConditionSettings:
    """The checked settings of the condition of this name, whose kind is its name unless they say another. Raises ConfigurationError."""
    if isinstance(values, ConditionSettings):
        return values
    if not isinstance(values, Mapping):
        raise not_a_section(name, values)
    try:
        model = CONDITIONS.model(str(values.get("kind") or name))
        return validate(model, dict(values))  # type: ignore[return-value]
    except ConfigurationError as error:
        raise type(error)(f"conditions.{name}: {error}") from None


def not_a_section(name: str, values: Any) -> ConfigurationError:
    """The error for a condition whose settings are no mapping."""
    return ConfigurationError(f"conditions.{name} must be a section of key: value lines, got {values!r}")


def check_colour(colour: str, setting: str) -> tuple[int, int, int]:
    """(r, g, b) in 0..255 of a colour name or #rrggbb. Raises ConfigurationError for an unknown one."""
    from PIL import ImageColor

    try:
        r, g, b = ImageColor.getrgb(colour)[:3]
        return r, g, b
    except ValueError:
        raise ConfigurationError(f"{setting} must be a colour name or #rrggbb, got {colour!r}") from None

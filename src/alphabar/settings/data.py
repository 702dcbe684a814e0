"""Settings of the data. Imports no torch."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from ..errors import ConfigurationError
from .base import Settings


class DataSettings(Settings):
    """Which pictures, and how they become one array."""

    source: str = Field(
        "digits",
        description="a folder, a .npz or .npy file, or a built-in set: digits, fashion-mnist, fashion-mnist-test",
    )
    path: str | None = Field(None, description="where the files of a built-in set lie, if not in the usual place")
    size: list[int] | None = Field(
        None,
        description="height and width in pixels (32, or 32x48); default: the pictures' own if all agree and are 64 or less, otherwise 32x32",
    )
    channels: Literal[1, 2, 3, 4] | None = Field(
        None,
        description="1 grey, 2 grey and alpha, 3 colour, 4 colour and alpha; default: 1 if all are grey, otherwise 3",
    )
    background: str = Field(
        "white", description="the colour behind transparent pixels, by name or #rrggbb, where alpha is not kept"
    )
    conditions: list[str] | None = Field(
        None,
        description="what the model is conditioned on: class, text, map, image, or names of your own; none: []; default: all that the data offers "
        "(folders as classes only when asked)",
    )
    flip: bool | None = Field(
        None,
        description="mirror half of the training pictures, at random, with their maps and pairs; default: no, or as the preset says, and never with text",
    )
    flip_except: list[str] = Field(
        default_factory=list,
        description="whole words such as left and right, in any case: a picture whose caption or class holds one is not mirrored",
    )
    class_from: str = Field(
        "auto",
        description="folder (the name of each picture's folder), label (the labels of a built-in set or .npz), a column of the metadata, "
        "none, or auto: label where there is one, otherwise none",
    )
    held_out: float = Field(0.05, ge=0, lt=1, description="fraction held out from training, for the validation loss")
    held_out_folder: str | None = Field(
        None, description="hold out the pictures in folders of this name instead of a fraction"
    )
    group: str | None = Field(
        None, description="a column of the metadata; pictures that agree in it stay on one side of the split"
    )
    strict: bool = Field(False, description="an unreadable picture is an error instead of a line in the report")
    memory_gb: float | None = Field(
        None,
        gt=0,
        description="keep decoded pictures, maps and pairs in memory up to this size together; default: a quarter of what is free",
    )

    @field_validator("size", mode="before")
    @classmethod
    def _read_size(cls, value: Any) -> Any:
        if isinstance(value, int):
            value = [value, value]
        if isinstance(value, str):
            if not re.fullmatch(r"\d+(x\d+)?", value):
                raise ConfigurationError(f"data.size must be like 32 or 32x48 (height x width), got {value!r}")
            numbers = [int(word) for word in value.split("x")]
            value = numbers * 2 if len(numbers) == 1 else numbers
        return value

    @model_validator(mode="after")
    def _check(self) -> DataSettings:
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise ConfigurationError(f"data.size must be height and width, each 1 or more, got {self.size}")
        if self.group is not None and self.held_out_folder is not None:
            raise ConfigurationError("data.group and data.held_out_folder both say how to split; set one of them")
        return self

"""Fields of requests: a field holds its description, its names on the command line, its panel and the word for its value.

Everything is kept in the field's `json_schema_extra`, so that a form made from the JSON schema has it too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import Field
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from ..settings.base import Settings

CONSTRAINTS = ("ge", "gt", "le", "lt")
MACHINE = "Model and machine"
"""The panel of the options that choose the weights and the device."""


def option(
    description: str,
    default: Any = None,
    *,
    flags: str = "",
    metavar: str = "",
    panel: str = "Options",
    **constraints: float,
) -> Any:
    """A field that is an option on the command line.

    flags: its names there, such as "--out -o"; default: -- and the field's name. metavar: the word for its value in the help; default: N
    for a whole number. panel: the group of the help and of a form in which it stands. constraints: ge, gt, le, lt.
    """
    return _field(description, default, {"flags": flags.split(), "metavar": metavar, "panel": panel}, constraints)


def argument(description: str, default: Any = ..., *, metavar: str) -> Any:
    """A field that is an argument on the command line: a word without a name."""
    return _field(description, default, {"positional": True, "metavar": metavar, "panel": "Arguments"}, {})


def like(
    settings: type[Settings], name: str, *, head: str = "", unset: str = "", more: str = "", metavar: str = "", panel: str = "Options",
) -> Any:  # fmt: skip
    """An option with the description and the constraints of a setting; None leaves the setting as it is.

    head: words before the description. more: what the option can do beyond the setting. unset: what None means, where it is not the
    setting's default.
    """
    field = settings.model_fields[name]
    description = f"{head}{field.description}" + (f". {more}" if more else "")
    default = field.get_default(call_default_factory=True)
    if not unset and default is not None and default is not PydanticUndefined:
        unset = in_words(default)
    if unset and "default:" not in description.lower():
        description = f"{description}; default: {unset}"
    return option(description, metavar=metavar, panel=panel, **constraints_of(field))


def _field(description: str, default: Any, extra: dict[str, Any], constraints: dict[str, float]) -> Any:
    kept = {key: value for key, value in extra.items() if value}
    bounds: dict[str, Any] = dict(constraints)
    return Field(default, description=description, json_schema_extra=kept, **bounds)


def run_argument() -> Any:
    """The model that a task works with."""
    return argument("A run folder, or a checkpoint folder in it.", metavar="RUN")


def checkpoint_option() -> Any:
    """Which checkpoint of the run."""
    return option("A step, step-N, or a checkpoint folder. Default: the newest.", metavar="STEP", panel=MACHINE)


def raw_weights_option() -> Any:
    """Which weights of the checkpoint."""
    return option("Use the weights of training instead of their average.", False, panel=MACHINE)


def plugin_option(panel: str = MACHINE) -> Any:
    """Files of the user's own code."""
    return option(
        "A Python file of your own that registers networks or conditions. May be repeated.",
        (),
        flags="--plugin",
        metavar="FILE.py",
        panel=panel,
    )


def batch_option() -> Any:
    """How many pictures at a time."""
    return option("Pictures at a time. Default: as many as fit.", panel=MACHINE, ge=1)


def device_option() -> Any:
    """Where to compute."""
    return option("cpu, cuda, mps, or auto.", "auto", metavar="DEVICE", panel=MACHINE)


def split_option() -> Any:
    """Which part of the real data."""
    return option(
        "held-out (from training), training, or all. Default: held-out of the run's own data, all of any other.",
        metavar="PART",
        panel="Real pictures",
    )


# --- fields as options --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Option:
    """A field of a request as the command line has it."""

    name: str
    kind: type
    """bool, int, float, Path or str: the type of a value."""
    flags: tuple[str, ...]
    help: str
    metavar: str
    panel: str
    default: Any
    required: bool
    positional: bool
    repeated: bool
    choices: tuple[str, ...]
    constraints: dict[str, float]

    @property
    def negative(self) -> str | None:
        """--no-NAME of an option that can be on, off, or left to the settings."""
        return f"--no-{self.flags[0].removeprefix('--')}" if self.kind is bool and self.default is None else None


def options_of(request: type[Settings]) -> Iterator[Option]:
    """The options and arguments of a request, in the order of its fields."""
    for name, field in request.model_fields.items():
        extra: dict[str, Any] = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        kind, repeated = value_type(field.annotation)
        positional, bounds = bool(extra.get("positional")), constraints_of(field)
        flags = () if positional else tuple(extra.get("flags") or [f"--{name.replace('_', '-')}"])
        default = None if field.is_required() else field.default
        yield Option(
            name, kind, flags, help_of(field), str(extra.get("metavar") or metavar_of(kind, bounds)), str(extra.get("panel", "Options")),
            default, field.is_required(), positional, repeated, choices_of(field.annotation), bounds,
        )  # fmt: skip


def value_type(annotation: Any) -> tuple[type, bool]:
    """(the type of one value, whether there may be several) of a field: `tuple[str, ...]` -> (str, True)."""
    members = [m for m in get_args(annotation) if m is not type(None)] if is_union(annotation) else [annotation]
    repeated = get_origin(members[0]) is tuple
    first = get_args(members[0])[0] if repeated else members[0]
    if get_origin(first) is Annotated:
        first = get_args(first)[0]
    if get_origin(first) is Literal:
        first = str
    if first not in (bool, int, float, Path, str):
        raise TypeError(f"{annotation} is no type of an option; use bool, int, float, Path, str, or a tuple of str")
    return first, repeated


def is_union(annotation: Any) -> bool:
    """Whether a type is a union, in either notation."""
    return isinstance(annotation, UnionType) or get_origin(annotation) is Union


def choices_of(annotation: Any) -> tuple[str, ...]:
    """The words that a field takes, empty if it takes others."""
    members = get_args(annotation) if is_union(annotation) else (annotation,)
    return tuple(word for member in members if get_origin(member) is Literal for word in get_args(member))


def constraints_of(field: FieldInfo) -> dict[str, Any]:
    """ge, gt, le and lt of a field."""
    return {key: getattr(item, key) for item in field.metadata for key in CONSTRAINTS if hasattr(item, key)}


def metavar_of(kind: type, bounds: dict[str, float]) -> str:
    """The word for a value that names none: N for whole numbers, the range of a fraction."""
    if kind is float and {"ge", "le"} <= bounds.keys():
        return f"{bounds['ge']:g}..{bounds['le']:g}"
    return "N" if kind is int else ""


def help_of(field: FieldInfo) -> str:
    """The description as sentences, with the choices and the default where it does not name them."""
    text, marker, unset = (field.description or "").partition("; default:")
    sentences = [sentence(text)]
    choices = choices_of(field.annotation)
    if any(word not in text + unset for word in choices):
        sentences.append(f"One of {', '.join(choices)}.")
    default = None if field.is_required() else field.default
    if marker:
        sentences.append(sentence(f"Default:{unset}"))
    elif default not in (None, False, (), "") and "default" not in text.lower():
        sentences.append(f"Default: {default}.")
    return " ".join(sentences)


def sentence(text: str) -> str:
    """With a capital letter, unless the first word is a symbol, and a full stop."""
    first = text.split(" ", 1)[0]
    plain = first.isalpha() and len(first) > 1
    return (text[:1].upper() + text[1:] if plain else text) + ("" if text.endswith(".") else ".")


def in_words(value: Any) -> str:
    """A value as the command line takes it: numbers short, several of them separated by commas, pairs as NAME=VALUE."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    if isinstance(value, dict):
        return ",".join(f"{name}={in_words(each)}" for name, each in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(map(in_words, value))
    return str(value)

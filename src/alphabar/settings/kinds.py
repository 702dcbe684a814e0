"""Settings that come in kinds: a network is a unet, an mlp or a kind of one's own, a condition is a class, a text, a map, ...

Each family is a dict from kind to settings model, which a registration adds to; a field annotated with `OneOf` takes any of them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from ..errors import ConfigurationError, MissingRegistration, nearest
from .base import Settings, validate


def check_registration(family: str, kind: str, builtin: Collection[str], present: type | None, new: type) -> None:
    """Raise ConfigurationError if the class `new` may not be registered as this kind of a family, such as "network".

    The kinds of alphabar itself are never replaced. A kind of one's own, whose class is `present`, is replaced only by a class of the
    same name, so that a file can be loaded again after a change.
    """
    if kind in builtin:
        raise ConfigurationError(
            f"{family} kind {kind!r} is built in and cannot be replaced by {new.__qualname__}; register it under another name"
        )
    if present is not None and present.__qualname__ != new.__qualname__:
        raise ConfigurationError(
            f"{family} kind {kind!r} is already registered by the class {present.__qualname__} of {present.__module__}, got "
            f"{new.__qualname__}; register it under another name"
        )


class OneOf:
    """The annotation of a field that holds the settings of one kind out of `known`, chosen by the key "kind".

    what: the family in an error message, such as "network". default: the kind of values that name none.
    """

    def __init__(self, what: str, known: Mapping[str, type[Settings]], default: str | None = None) -> None:
        self.what, self.known, self.default = what, known, default

    def model(self, kind: str) -> type[Settings]:
        """The settings model of a kind. Raises MissingRegistration, naming the nearest kind, if there is none."""
        if kind not in self.known:
            raise MissingRegistration(
                f"{self.what}.kind: {kind!r} is not registered; {nearest(kind, self.known)}; a kind of your own is registered by "
                "--plugin FILE.py, or from Python"
            )
        return self.known[kind]

    def read(self, values: Any) -> Settings:
        """The checked settings of values with their kind. Raises ConfigurationError."""
        if isinstance(values, Settings):
            if not isinstance(values, tuple(self.known.values())):
                raise ConfigurationError(f"{self.what} cannot be of {type(values).__name__}; {nearest('', self.known)}")
            return values
        if not isinstance(values, Mapping):
            raise ConfigurationError(f"{self.what} must be a section of key: value lines, got {values!r}")
        kind = values.get("kind") or self.default
        if kind is None:
            raise ConfigurationError(f"{self.what} needs a kind; {nearest('', self.known)}")
        return validate(self.model(str(kind)), dict(values), "" if self.default is None else self.what)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self.read,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda settings, info: settings.model_dump(mode=info.mode), info_arg=True
            ),
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [handler(model.__pydantic_core_schema__) for model in dict.fromkeys(self.known.values())]}

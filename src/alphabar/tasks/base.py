"""The base of all requests and plans. Imports no torch."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Protocol

from pydantic import BeforeValidator, ModelWrapValidatorHandler, ValidationError, model_validator

from ..errors import ConfigurationError
from ..settings.base import Settings, fault
from .fields import Option, in_words, options_of


def as_text(value: Any) -> Any:
    """Numbers, lists and mappings as the command line takes them; anything else as it is."""
    return in_words(value) if isinstance(value, int | float | list | tuple | dict) else value


Words = Annotated[str, BeforeValidator(as_text)]
"""Text as the command line takes it, such as 1,2,4 or text=3; from Python also a number, a list or a mapping."""


class Request(Settings):
    """What a person asks for: frozen, checked when it is made, written as JSON by `model_dump_json`.

    A class of request has the `name` of its task, three `examples` of commands and, where one sentence is not enough, `details`.
    Raises ConfigurationError where a value cannot be used.
    """

    name: ClassVar[str]
    examples: ClassVar[tuple[str, str, str]]
    details: ClassVar[str] = ""

    @model_validator(mode="wrap")
    @classmethod
    def _raise_in_words(cls, values: Any, handler: ModelWrapValidatorHandler[Any]) -> Any:
        try:
            return handler(values)
        except ValidationError as error:
            raise ConfigurationError("; ".join(map(fault, error.errors()))) from None

    @classmethod
    def options(cls) -> list[Option]:
        """The fields as the command line has them."""
        return list(options_of(cls))

    def command(self) -> list[str]:
        """The command line that makes this request, as words: ["alphabar", "sample", "runs/mine", "--out", "x.png"]."""
        arguments, words = list[str](), list[str]()
        for each in self.options():
            value = getattr(self, each.name)
            if value is None or (not each.required and value == each.default):
                continue
            if each.positional:
                arguments.append(in_words(value))
            elif each.kind is bool:
                words.append(each.flags[0] if value else str(each.negative))
            else:
                values = value if each.repeated else [value]
                words += [word for item in values for word in (each.flags[0], in_words(item))]
        if any(word.startswith("-") for word in arguments):
            return ["alphabar", self.name, *words, "--", *arguments]
        return ["alphabar", self.name, *arguments, *words]

    def command_line(self) -> str:
        """The command as one line, quoted as a shell takes it."""
        return shlex.join(self.command())


class Plan(Protocol):
    """A request that was checked against the world: what is going to happen."""

    @property
    def request(self) -> Request:
        """What the plan was made from."""

    def lines(self) -> list[str]:
        """The plan for people, before anything happens."""


@dataclass(frozen=True)
class PlainPlan:
    """The plan of a task about which there is nothing to say in advance."""

    request: Any

    def lines(self) -> list[str]:
        """No lines."""
        return []

"""A command for each task, its options made from the fields of the task's request."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command_from_info
from typer.models import CommandInfo

from ..tasks.registry import TASKS, Task
from .help import usage_words, write_command_help, write_group_help

if TYPE_CHECKING:
    from ..tasks.base import Request
    from ..tasks.fields import Option

HELP_OPTIONS = ["-h", "--help"]


class TaskGroup(TyperGroup):
    """The commands of all tasks; each makes its options when it is first used."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {name: TaskCommand(name, task) for name, task in TASKS.items()}

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the panels of commands and the options."""
        formatter.write(write_group_help(self, ctx))


class TaskCommand(TyperCommand):
    """A command that imports the request of its task only when its options are needed."""

    def __init__(self, name: str, task: Task) -> None:
        self.task = task
        self._built: Any = None
        super().__init__(name, help=task.summary, context_settings={"help_option_names": HELP_OPTIONS})
        self.rich_help_panel = task.panel

    @property
    def built(self) -> Any:
        """The command as typer makes it of the request's fields."""
        if self._built is None:
            info = CommandInfo(name=self.name, callback=callback_of(self.task.request_class()))
            self._built = get_command_from_info(info, pretty_exceptions_short=True, rich_markup_mode=None)
        return self._built

    @property
    def params(self) -> list[Any]:
        """The options and arguments."""
        return self.built.params

    @params.setter
    def params(self, value: list[Any]) -> None:
        """Typer sets none: they come from the request."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The required words of a command line."""
        return usage_words(self.get_params(ctx))

    def invoke(self, ctx: Any) -> Any:
        """Carry out the request that the words on the command line make."""
        return self.built.invoke(ctx)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the options in panels, then the examples."""
        formatter.write(write_command_help(self, ctx, self.task.request_class()))


def callback_of(request: type[Request]) -> Callable[..., None]:
    """A function with a parameter for each field, which makes the request and carries it out."""

    def callback(**values: Any) -> None:
        from .watch import show

        show(request(**{name: value for name, value in values.items() if value is not None}))

    parameters = [parameter_of(option) for option in request.options()]
    callback.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    callback.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    callback.__name__ = callback.__qualname__ = request.name
    return callback


def parameter_of(option: Option) -> inspect.Parameter:
    """A field as typer takes it."""
    bounds = {"min": option.constraints.get("ge"), "max": option.constraints.get("le")}
    shared: dict[str, Any] = {"help": option.help, "rich_help_panel": option.panel, "show_default": False}
    if option.kind in (int, float):
        shared |= bounds
    if option.positional:
        info = typer.Argument(metavar=option.metavar, **shared)
    else:
        flags = [*option.flags[:-1], f"{option.flags[-1]}/{option.negative}"] if option.negative else option.flags
        info = typer.Option(*flags, metavar=option.metavar or None, **shared)
    default = None if option.repeated else option.default
    return inspect.Parameter(
        option.name,
        inspect.Parameter.KEYWORD_ONLY,
        annotation=Annotated[type_of(option), info],
        default=inspect.Parameter.empty if option.required else default,
    )


def type_of(option: Option) -> Any:
    """The annotation of a parameter: one value, a list, or nothing where the option may be left out."""
    one: Any = option.kind
    kind = list[one] if option.repeated else one
    return kind if option.required or (option.default is not None and not option.repeated) else kind | None

"""The text of --help: options in panels beside their meanings, then examples, at any width of the terminal."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..tasks.base import Request

WIDEST, NARROWEST = 100, 40
NAMES = 28
"""Columns of the names of options, less where the terminal is narrow."""


def width() -> int:
    """Columns of the help."""
    return max(NARROWEST, min(WIDEST, shutil.get_terminal_size((80, 24)).columns))


def write_command_help(command: Any, ctx: Any, request: type[Request]) -> str:
    """The help of a command."""
    columns = width()
    paragraphs = [command.help, request.details]
    parts = [usage(ctx, command), *(wrapped(text, columns) for text in paragraphs if text)]
    panels: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.get_params(ctx):
        panel = getattr(parameter, "rich_help_panel", None) or "Help"
        panels.setdefault(panel, []).append((names_of(parameter), parameter.help or ""))
    parts += [panel_text(title, rows, columns) for title, rows in panels.items()]
    return "\n\n".join([*parts, examples_text(request.examples, columns)]) + "\n"


def write_group_help(group: Any, ctx: Any) -> str:
    """The help of `alphabar`: the commands in panels."""
    columns = width()
    panels: dict[str, list[tuple[str, str]]] = {}
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        panels.setdefault(command.rich_help_panel, []).append((name, command.help))
    panels["Help"] = [(names_of(parameter), parameter.help or "") for parameter in group.get_params(ctx)]
    parts = [usage(ctx, group), wrapped(group.help, columns)]
    longest = max(len(name) for rows in panels.values() for name, _ in rows)
    parts += [panel_text(title, rows, columns, longest + 4) for title, rows in panels.items()]
    return "\n\n".join(parts) + "\n"


def usage(ctx: Any, command: Any) -> str:
    """The first line."""
    words = " ".join(command.collect_usage_pieces(ctx))
    return wrapped(f"Usage: {ctx.command_path} {words}", width(), indent="       ")


def usage_words(parameters: Iterable[Any]) -> list[str]:
    """The arguments and required options of a command."""
    words = []
    for parameter in parameters:
        if parameter.param_type_name == "argument":
            words.append(parameter.metavar if parameter.required else f"[{parameter.metavar}]")
        elif parameter.required:
            words.append(f"{max(parameter.opts, key=len)} {parameter.metavar}")
    return [*words, "[OPTIONS]"]


def names_of(parameter: Any) -> str:
    """The names of an option with the word for its value, or that of an argument."""
    if parameter.param_type_name == "argument":
        return str(parameter.metavar)
    names = sorted(parameter.opts, key=len, reverse=True)
    text = ", ".join([*names, *parameter.secondary_opts])
    return text if parameter.is_flag else f"{text} {parameter.metavar}"


def panel_text(title: str, rows: Sequence[tuple[str, str]], columns: int, names: int = NAMES) -> str:
    """A heading, and each name beside its meaning; a name that is too long has a line of its own."""
    left = min(names, columns // 2)
    lines = [f"{title}:"]
    for name, meaning in rows:
        beside = len(name) + 4 <= left
        first = f"  {name}".ljust(left) if beside else " " * left
        lines += [] if beside else [f"  {name}"]
        lines.append(
            textwrap.fill(meaning, columns, initial_indent=first, subsequent_indent=" " * left, break_on_hyphens=False)
        )
    return "\n".join(lines)


def examples_text(examples: Iterable[str], columns: int) -> str:
    """The examples; one that is too long goes on in the next line, as a shell takes it."""
    lines = ["Examples:"]
    for example in examples:
        parts = textwrap.wrap(
            example, columns - 4, initial_indent="  ", subsequent_indent="      ", break_long_words=False, break_on_hyphens=False
        )  # fmt: skip
        lines.append(" \\\n".join(parts))
    return "\n".join(lines)


def wrapped(text: str, columns: int, indent: str = "") -> str:
    """A paragraph in lines of at most so many columns."""
    return textwrap.fill(text, columns, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)

"""`alphabar explain`: the derivation in the terminal, with the numbers of one's own schedule."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..explain.formulas import FORMULAS
from ..explain.topics import LANGUAGES, TOPICS

if TYPE_CHECKING:
    from ..diffusion.schedule import TableSchedule

CHINESE_PARTS = re.compile(r"[（“]*(?:[!-~]+(?: *= *[!-~]+)*|[^ ])[，。；：、！？）”]*| ")
"""What stays on one line: a formula or word in Latin letters, or a Chinese sign, with the punctuation around it."""
LONGEST = 200  # columns where no terminal says how many it has
TABLES = ("linear", "scaled_linear", "cosine", "sigmoid")
"""Schedules that are a table of steps by their name alone, as the derivation has it."""

WORDS = {
    "en": {
        "topics": "topics (alphabar explain TOPIC)",
        "numbers": "at step t = {t} of {steps}, {kind}",
        "more": "more: ",
        "colon": ":",
    },
    "zh": {
        "topics": "主题（alphabar explain TOPIC）",
        "numbers": "第 t = {t} 步，共 {steps} 步，{kind}",
        "more": "详见：",
        "colon": "：",
    },
}


def explain(
    topic: Annotated[
        str | None, typer.Argument(help="forward, closed-form, posterior, training, ...; without it: the list.")
    ] = None,
    t: Annotated[
        int | None, typer.Option("--t", help="The step whose numbers are shown, 1 to T; default: the middle one.")
    ] = None,
    schedule: Annotated[
        str | None, typer.Option(help="linear, scaled_linear, cosine or sigmoid; default: linear.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="T, the number of steps; default: 1000.")] = None,
    run: Annotated[Path | None, typer.Option(help="A run folder: its schedule is taken.")] = None,
    lang: Annotated[str | None, typer.Option(help="en or zh; default: as the locale says.")] = None,
) -> None:
    """Explain a part of the derivation: its formulas, and their numbers for a schedule."""
    from ..errors import unknown

    language = lang or language_of_locale()
    if language not in LANGUAGES:
        raise unknown("--lang", language, LANGUAGES)
    words = WORDS[language]
    if topic is None:
        print(f"{words['topics']}{words['colon']}\n")
        for name, each in TOPICS.items():
            print(f"  {name:<14}{each.title[language]}")
        return
    if topic not in TOPICS:
        raise unknown("topic", topic, TOPICS)
    kind, table = read_schedule(schedule, steps, run)
    step = max(1, table.steps // 2) if t is None else t
    check_step(step, table.steps)
    found = TOPICS[topic]
    width = shutil.get_terminal_size((LONGEST, 24)).columns
    print(f"{found.title[language]}\n\n{wrapped(found.text[language], width, language)}\n")
    for label in found.formulas:
        formula, origin = f"  {FORMULAS[label].text}", f"    [{label}: alphabar.{FORMULAS[label].function}]"
        print(formula + origin if len(formula + origin) <= width else f"{formula}\n{origin}")
    numbers = found.numbers(table, step)
    if numbers:
        print("\n" + words["numbers"].format(t=step, steps=table.steps, kind=kind) + words["colon"])
        for name, value in numbers.items():
            print(f"  {name} = {value:.6g}")
    print(f"\n{words['more']}docs/{language}/{found.page}")


def wrapped(text: str, width: int, language: str) -> str:
    """The text in lines of at most so many columns, of which a Chinese sign takes two; as it is where that suffices."""
    from rich.cells import cell_len
    from rich.console import Console
    from rich.text import Text

    if all(cell_len(line) <= width for line in text.splitlines()):
        return text
    if language != "zh":
        return "\n".join(
            line.plain.rstrip() for line in Text(text.replace("\n", " ")).wrap(Console(width=width), width)
        )
    lines = [""]
    for part in CHINESE_PARTS.findall(text.replace("\n", "")):
        if lines[-1] and cell_len(lines[-1] + part.rstrip()) > width:
            lines.append("")
        lines[-1] += part if lines[-1] else part.lstrip()
    return "\n".join(line.rstrip() for line in lines)


def language_of_locale() -> str:
    """zh where the locale is Chinese, otherwise en."""
    names = (os.environ.get(name) for name in ("LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG"))
    return "zh" if next((name for name in names if name), "").lower().startswith("zh") else "en"


def read_schedule(kind: str | None, steps: int | None, run: Path | None) -> tuple[str, TableSchedule]:
    """The name and the table of a schedule, that of a run if one is given. Raises ConfigurationError if there is no table, or for both."""
    from ..diffusion.schedule import TableSchedule, build_schedule
    from ..errors import ConfigurationError, unknown
    from ..runs.folder import RunFolder
    from ..settings.base import ScheduleSettings, validate

    if run and (kind or steps):
        raise ConfigurationError("a run has a schedule of its own: give --run, or --schedule and --steps")
    if kind and kind not in TABLES:
        raise unknown("--schedule", kind, TABLES)
    wanted = {"kind": kind or "linear", "steps": 1000 if steps is None else steps}
    settings = RunFolder.open(run).config.schedule if run else validate(ScheduleSettings, wanted)
    found = build_schedule(settings)
    if not isinstance(found, TableSchedule):
        raise ConfigurationError(
            f"schedule {settings.kind} has no table of steps; the derivation is about tables: try --schedule cosine"
        )
    return settings.kind, found


def check_step(t: int, steps: int) -> None:
    """Raise ConfigurationError for a step that the table does not have."""
    from ..errors import ConfigurationError

    if not 1 <= t <= steps:
        raise ConfigurationError(f"--t must be a step from 1 to {steps}, got {t}; --steps changes their number")

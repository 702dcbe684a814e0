"""The derivation in words, formulas, and the numbers of a schedule."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from ...diffusion.schedule import TableSchedule, build_schedule
from ...errors import ConfigurationError, unknown
from ...explain.formulas import FORMULAS
from ...explain.topics import LANGUAGES, TOPICS, Topic
from ...runs.folder import RunFolder
from ...settings.base import ScheduleSettings, validate
from ..base import PlainPlan
from ..events import Emit, Event, TaskResult
from ..explain import ExplainRequest
from ..job import Stop

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


def plan(request: ExplainRequest, emit: Emit) -> PlainPlan:
    """Check the language and the topic. Raises ConfigurationError."""
    language = request.lang or language_of_locale()
    if language not in LANGUAGES:
        raise unknown("--lang", language, LANGUAGES)
    if request.topic is not None and request.topic not in TOPICS:
        raise unknown("topic", request.topic, TOPICS)
    return PlainPlan(request)


def run(plan: PlainPlan, stop: Stop) -> Iterator[Event]:
    """The topic in lines as wide as the terminal, or the list of topics."""
    request: ExplainRequest = plan.request
    language = request.lang or language_of_locale()
    words = WORDS[language]
    if request.topic is None:
        titles = {name: topic.title[language] for name, topic in TOPICS.items()}
        lines = [f"{words['topics']}{words['colon']}\n", *(f"  {name:<14}{title}" for name, title in titles.items())]
        yield TaskResult(lines, {"topics": titles})
        return
    kind, table = read_schedule(request.schedule, request.steps, request.run)
    t = max(1, table.steps // 2) if request.t is None else request.t
    check_step(t, table.steps)
    topic = TOPICS[request.topic]
    numbers = topic.numbers(table, t)
    lines = text_lines(topic, language, shutil.get_terminal_size((LONGEST, 24)).columns)
    if numbers:
        lines.append("\n" + words["numbers"].format(t=t, steps=table.steps, kind=kind) + words["colon"])
        lines += [f"  {name} = {value:.6g}" for name, value in numbers.items()]
    lines.append(f"\n{words['more']}docs/{language}/{topic.page}")
    formulas = {label: FORMULAS[label].text for label in topic.formulas}
    data = {"title": topic.title[language], "text": topic.text[language], "formulas": formulas, "numbers": numbers}
    yield TaskResult(lines, data)


def text_lines(topic: Topic, language: str, width: int) -> list[str]:
    """The title, the text in lines of this width, and the formulas with the functions that compute them."""
    lines = [f"{topic.title[language]}\n\n{wrapped(topic.text[language], width, language)}\n"]
    for label in topic.formulas:
        formula, origin = f"  {FORMULAS[label].text}", f"    [{label}: alphabar.{FORMULAS[label].function}]"
        lines.append(formula + origin if len(formula + origin) <= width else f"{formula}\n{origin}")
    return lines


def wrapped(text: str, width: int, language: str) -> str:
    """The text in lines of at most so many columns, of which a Chinese sign takes two; as it is where that suffices."""
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
    if run and (kind or steps):
        raise ConfigurationError("a run has a schedule of its own: give --run, or --schedule and --steps")
    if kind and kind not in TABLES:
        raise unknown("--schedule", kind, TABLES)
    wanted = {"kind": kind or "linear", "steps": 1000 if steps is None else steps}
    settings = RunFolder.open(run).config.schedule if run else validate(ScheduleSettings, wanted)
    table = build_schedule(settings)
    if not isinstance(table, TableSchedule):
        raise ConfigurationError(
            f"schedule {settings.kind} has no table of steps; the derivation is about tables: try --schedule cosine"
        )
    return settings.kind, table


def check_step(t: int, steps: int) -> None:
    """Raise ConfigurationError for a step that the table does not have."""
    if not 1 <= t <= steps:
        raise ConfigurationError(f"--t must be a step from 1 to {steps}, got {t}; --steps changes their number")

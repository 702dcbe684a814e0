"""The help of every command: readable at any width, in panels, with three examples that the command line accepts."""

from __future__ import annotations

import re
import shlex

import pytest
import typer

from alphabar import cli
from alphabar.cli import watch
from alphabar.tasks import TASKS

from .running import run_command_line

COMMANDS = ["", *TASKS]
TYPE_WORDS = {"TEXT", "INTEGER", "FLOAT", "PATH", "BOOL", "BOOLEAN", "STR", "INT", "RANGE", "[OPTIONS]..."}


def group():
    return typer.main.get_command(cli.app)


@pytest.fixture(params=[60, 80, 120])
def columns(request, monkeypatch) -> int:
    monkeypatch.setenv("COLUMNS", str(request.param))
    return request.param


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_fits_and_nothing_is_cut(alphabar, columns, command):
    code, text, _ = alphabar(*command.split(), "--help")
    assert code == 0
    assert max(map(len, text.splitlines())) <= columns
    assert "…" not in text
    words = re.findall(r"[^\s,]+", text)
    parameters = group().commands[command].params if command else group().params
    for parameter in parameters:
        if parameter.param_type_name == "option":
            names = ", ".join([*sorted(parameter.opts, key=len, reverse=True), *parameter.secondary_opts])
            assert re.search(rf"^  {re.escape(names)}( |$)", text, re.M), names
        else:
            assert re.search(rf"^  {re.escape(parameter.metavar)}( |$)", text, re.M), parameter.metavar
    assert not TYPE_WORDS & set(words)
    assert not re.search(r"<\w+>|\[[a-z+-]+\|", text)  # types and lists of choices


@pytest.mark.parametrize("command", TASKS)
def test_each_option_stands_in_a_panel_with_its_meaning(alphabar, command):
    _, text, _ = alphabar(command, "--help")
    headings = re.findall(r"^(\w[\w ]*):$", text, re.M)
    assert headings[-2:] == ["Help", "Examples"]
    for option in TASKS[command].request_class().options():
        assert option.panel in headings
        assert option.help.endswith(".")
        assert " ".join(option.help.split()) in " ".join(text.split()), option.name


def test_long_helps_have_several_panels(alphabar):
    for command in ("train", "sample", "edit", "evaluate", "likelihood"):
        options = TASKS[command].request_class().options()
        panels = [option.panel for option in options]
        assert len(set(panels)) >= 4
        assert max(map(panels.count, panels)) <= 9


@pytest.mark.parametrize("command", TASKS)
def test_the_three_examples_are_accepted(alphabar, monkeypatch, capsys, command):
    monkeypatch.setenv("COLUMNS", "60")
    _, text, _ = alphabar(command, "--help")
    shown = text.partition("Examples:\n")[2].replace("\\\n", " ")
    examples = [shlex.join(shlex.split(line)) for line in shown.splitlines() if line.strip()]
    request_class = TASKS[command].request_class()
    assert len(examples) == len(set(examples)) == 3
    assert examples == [shlex.join(shlex.split(example)) for example in request_class.examples]
    requests: list = []
    monkeypatch.setattr(watch, "show", requests.append)
    for example in examples:
        name, *words = shlex.split(re.split(r" '?[|>]'? ", example)[0])
        assert name == "alphabar"
        assert run_command_line(monkeypatch, capsys, *words)[0] == 0
    assert [type(request) for request in requests] == [request_class] * 3


def test_commands_stand_in_panels(alphabar):
    _, text, _ = alphabar("--help")
    for task in TASKS.values():
        assert f"\n{task.panel}:\n" in text
    assert all(re.search(rf"^  {name} ", text, re.M) for name in TASKS)


def test_without_a_command_the_help_is_shown(alphabar):
    code, text, _ = alphabar()
    assert code == 2
    assert text.startswith("Usage: ")
    assert "\nMeasure:\n" in text


def test_an_error_shows_how_the_command_is_used(alphabar):
    code, _, error = alphabar("sample", "run")
    assert code == 2
    assert "sample RUN --out FILE [OPTIONS]" in error


def test_the_schema_is_printed_as_json(alphabar):
    code, text, _ = alphabar("schema", "sample")
    assert code == 0
    assert '"title": "sample"' in text
    code, text, _ = alphabar("schema")
    assert [line.split()[0] for line in text.splitlines()] == list(TASKS)

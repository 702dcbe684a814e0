"""`alphabar explain`: every topic in both languages, the numbers of the schedule that is asked for, and clear errors."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.cells import cell_len

from alphabar.diffusion.gaussian import posterior_variance
from alphabar.diffusion.schedule import TableSchedule, cosine_betas
from alphabar.explain.formulas import FORMULAS
from alphabar.explain.topics import LANGUAGES, TOPICS
from alphabar.tasks.running.explain import wrapped

from .running import run_command_line

DOCS = Path(__file__).parents[2] / "docs"


Explain = Callable[..., tuple[int, str, str]]


@pytest.fixture
def explain(monkeypatch, capsys) -> Explain:
    return lambda *words: run_command_line(monkeypatch, capsys, "explain", *words)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("topic", TOPICS)
def test_a_narrow_terminal_gets_narrow_text(topic, language, explain, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    _, wide, _ = explain(topic, "--lang", language)
    monkeypatch.setenv("COLUMNS", "40")
    _, narrow, _ = explain(topic, "--lang", language)
    text = TOPICS[topic].text[language]
    assert text in wide
    assert re.sub(r"\s", "", wide) == re.sub(r"\s", "", narrow)
    told = narrow.split("\n\n")[1]
    assert all(cell_len(line) <= 40 for line in told.splitlines())
    assert not re.search(r"^[，。；：、！？）]|[（“]$", told, re.M)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("topic", TOPICS)
def test_each_topic_shows_its_formulas_and_leads_to_its_page(topic, language, explain):
    _, told, _ = explain(topic, "--lang", language)
    found = TOPICS[topic]
    assert told.startswith(found.title[language])
    for label in found.formulas:
        assert FORMULAS[label].text in told
    page = re.search(r"docs/(\w+/[\w-]+\.md)", told)
    assert page
    assert (DOCS / page[1]).is_file()


def test_the_numbers_are_those_of_the_schedule(explain):
    _, told, _ = explain("posterior", "--t", 70, "--schedule", "cosine", "--steps", 100, "--lang", "en")
    table = TableSchedule(cosine_betas(100))
    expected = float(posterior_variance(table.alpha_bars[70], table.alpha_bars[69]))
    assert f"β̃ₜ = {expected:.6g}" in told
    assert "at step t = 70 of 100, cosine" in told


@pytest.mark.parametrize("t", ["1", "2", "100"])
@pytest.mark.parametrize("topic", TOPICS)
def test_the_first_and_the_last_step_have_numbers_too(topic, t, explain):
    code, told, _ = explain(topic, "--t", t, "--schedule", "cosine", "--steps", 100)
    assert code == 0
    assert "nan" not in told


def test_the_locale_chooses_the_language_and_the_list_names_every_topic(explain, monkeypatch):
    for locale, title in (("zh_CN.UTF-8", "加噪"), ("de_DE.UTF-8", "Adding noise"), ("", "Adding noise")):
        monkeypatch.setenv("LC_ALL", locale)
        monkeypatch.setenv("LC_MESSAGES", "")
        monkeypatch.setenv("LANG", "")
        _, told, _ = explain()
        assert title in told
        assert all(topic in told for topic in TOPICS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["posterior", "--t", "0"], "--t must be a step from 1 to 1000, got 0"),
        (["posterior", "--t", "11", "--steps", "10", "--schedule", "cosine"], "from 1 to 10"),
        (["postrior"], "did you mean 'posterior'"),
        (["forward", "--schedule", "continuous_cosine"], "unknown --schedule 'continuous_cosine'"),
        (["forward", "--schedule", "cosin"], "did you mean 'cosine'? known: cosine, linear, scaled_linear, sigmoid"),
        (["forward", "--lang", "fr"], "known: en, zh"),
        (["forward", "--run", "r", "--schedule", "cosine"], "a run has a schedule of its own"),
        (["forward", "--run", "r", "--steps", "10"], "a run has a schedule of its own"),
    ],
)
def test_what_there_is_not_is_said_before_anything_is_shown(words, message, explain):
    code, told, error = explain(*words)
    assert code == 2
    assert message in error
    assert not told


def test_a_console_without_these_signs_shows_others_and_does_not_fail():
    words = [sys.executable, "-m", "alphabar", "explain", "posterior"]
    done = subprocess.run(words, capture_output=True, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert b"posterior" in done.stdout
    assert b"?" in done.stdout


def test_what_is_wider_than_the_terminal_stays_whole():
    assert wrapped("averyveryverylongword一个词", 8, "zh") == "averyveryverylongword\n一个词"

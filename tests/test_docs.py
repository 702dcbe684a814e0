"""The pages say the same in both languages, their commands exist, and the condition of one's own works as they show it."""

from __future__ import annotations

import ast
import csv
import dataclasses
import importlib.util
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image, ImageDraw

import alphabar
from alphabar import cli
from alphabar.conditions import kinds
from alphabar.conditions.base import Sizes
from alphabar.conditions.kinds import load_with_conditions
from alphabar.data.builtin_sets import load_digits
from alphabar.data.readers import Offer
from alphabar.errors import ConfigurationError, DataError
from alphabar.explain.formulas import ASIDES, FORMULAS, NAMED
from alphabar.explain.notation import to_sentence
from alphabar.explain.topics import TOPICS
from alphabar.settings.config import finish, resolve
from alphabar.settings.data import DataSettings

from .cli.running import run_command_line
from .registering import registrations_forgotten

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path.name for path in (DOCS / "en").glob("*.md"))
TEXTS = {str(p.relative_to(ROOT)): p for p in [*DOCS.glob("*.md"), *DOCS.glob("*/*.md"), *ROOT.glob("*.md")]}
SNIPPET = DOCS / "snippets" / "angle.py"
TRANSFORMER = DOCS / "snippets" / "transformer.py"  # tests/networks/test_own.py tests it
OF_RUNS = (
    "samplers",
    "editing",
    "evaluation",
    "likelihood",
    "diffusers",
    "conditions",
)  # snippets that test_pages.py runs
LONGEST_EXAMPLE = 15


spec = importlib.util.spec_from_file_location("build", DOCS / "build.py")
assert spec
assert spec.loader
build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build)
SNIPPETS = sorted((DOCS / "snippets").glob("*.py"))


def regions_of(file: Path) -> list[str]:
    return re.findall(r"# region (\S+)", file.read_text(encoding="utf-8"))


def code_blocks(text: str) -> list[tuple[str, str]]:
    """(language, code) of each fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.M | re.S)


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)


def formulas_in_sentences(text: str) -> set[str]:
    """Without spaces, and without the words in them."""
    text = re.sub(r"^\$\$\n.*?\n\$\$$|`[^`\n]+`", "", without_code(text), flags=re.M | re.S)
    return {re.sub(r"\\text\{.*?\}|\\[,;!]|\s", "", formula) for formula in re.findall(r"\$([^$\n]+)\$", text)}


@pytest.mark.parametrize("page", PAGES)
def test_formulas_in_sentences_are_the_same_in_both_languages(page):
    english, chinese = (
        formulas_in_sentences((DOCS / lang / page).read_text(encoding="utf-8")) for lang in ("en", "zh")
    )
    assert english == chinese


RELATION = re.compile(r"=|\\(sim|propto|approx|le|ge)(?![a-z])|<|>")
VALUE = re.compile(r"(a|t|w|\\sigma)(=|\\ge)(\d|T)(,\\dots,1)?")
"""Which step or weight is spoken of."""


def as_compared(formula: str) -> str:
    """Without spaces, growing parentheses, and braces around a single sign or name."""
    return re.sub(r"\{(\\?\w+)\}", r"\1", re.sub(r"\\left|\\right|\\[,;!]|\s", "", formula))


def relations_in_sentences(language: str) -> set[str]:
    """What the sentences of all pages of a language say is equal, or related otherwise."""
    texts = [(DOCS / language / page).read_text(encoding="utf-8") for page in PAGES]
    found = set().union(*map(formulas_in_sentences, texts))
    return {as_compared(formula) for formula in found if RELATION.search(formula) and not VALUE.fullmatch(formula)}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_what_sentences_say_is_equal_is_named_or_proved(language):
    """tests/laws/test_derivation.py proves each of `ASIDES`."""
    assert relations_in_sentences(language) == {as_compared(to_sentence(source)) for source in NAMED + ASIDES}


def test_a_flipped_sign_in_a_sentence_of_one_language_would_be_seen():
    text = (DOCS / "zh" / "derivation.md").read_text(encoding="utf-8")
    flipped = text.replace(r"\alpha_t - \bar\alpha_t + \beta_t", r"\alpha_t + \bar\alpha_t + \beta_t")
    assert formulas_in_sentences(flipped) != formulas_in_sentences(text)


def commands(text: str) -> list[list[str]]:
    """The words of each `alphabar ...` command of the shell blocks."""
    lines = [
        line
        for language, code in code_blocks(text)
        if language == "sh"
        for line in code.replace("\\\n", " ").splitlines()
    ]
    return [words for line in lines if (words := shlex.split(line, comments=True)) and words[0] == "alphabar"]


# --- both languages -----------------------------------------------------------------------------------------------------------


NAMES = {"# alphabar", "## ONNX", "## ODE", "## Python"}


@pytest.mark.parametrize(
    "path", [*(DOCS / "zh").glob("*.md"), DOCS.parent / "README.zh.md"], ids=lambda path: path.name
)
def test_headings_of_chinese_pages_are_chinese(path):
    headings = re.findall(r"^#+ [^`\n]*$", without_code(path.read_text(encoding="utf-8")), re.M)
    assert headings
    assert [each for each in headings if not re.search(r"[\u4e00-\u9fff]", each) and each not in NAMES] == []


def test_each_page_has_its_translation():
    assert sorted(path.name for path in (DOCS / "zh").glob("*.md")) == PAGES


@pytest.mark.parametrize("name", PAGES)
def test_translations_have_the_same_headings_code_tables_and_pictures(name):
    english, chinese = ((DOCS / language / name).read_text(encoding="utf-8") for language in ("en", "zh"))
    assert code_blocks(english) == code_blocks(chinese)
    for pattern in (r"^#+(?= )", r"^\|(?=.*\|$)", r"!\[[^]]*\](\([^)]+\))", r"<!-- figure: .*? -->"):
        found = [re.findall(pattern, without_code(text), flags=re.M) for text in (english, chinese)]
        assert found[0] == found[1], pattern


def anchors(text: str) -> set[str]:
    """The anchors that a code host gives to the headings of a page."""
    heads = re.findall(r"^#+ (.*)$", without_code(text), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("path", TEXTS.values(), ids=TEXTS)
def test_links_lead_somewhere(path):
    for link in re.findall(r"\]\(((?!http)[^)]+)\)", without_code(path.read_text(encoding="utf-8"))):
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), link


# --- what is written by the code ------------------------------------------------------------------------------------------------------


def test_formulas_snippets_short_forms_and_the_reference_are_those_of_the_code():
    assert not build.stale(), "run python docs/build.py"


@pytest.mark.parametrize("name", PAGES)
def test_both_languages_hold_the_same_formulas_and_snippets(name):
    english, chinese = ((DOCS / language / name).read_text(encoding="utf-8") for language in ("en", "zh"))
    found = [
        [m.groups() for m in re.finditer(r"<!-- (formula|snippet|short|reference): (.*?) -->", text)]
        for text in (english, chinese)
    ]
    assert found[0] == found[1]


def test_every_formula_topic_and_snippet_stands_on_a_page():
    text = "".join(path.read_text(encoding="utf-8") for path in (DOCS / "en").glob("*.md"))
    assert all(f"<!-- formula: {label} -->" in text for label in FORMULAS)
    assert all(f"<!-- short: {topic} -->" in text for topic in TOPICS)
    for file in SNIPPETS:
        assert all(f"<!-- snippet: {file.name} {region} -->" in text for region in regions_of(file))


def test_a_flipped_sign_makes_a_page_stale(monkeypatch):
    formula = FORMULAS["closed-form"]
    monkeypatch.setitem(FORMULAS, "closed-form", dataclasses.replace(formula, source=formula.source.replace("+", "-")))
    assert DOCS / "en" / "derivation.md" in build.stale()
    assert DOCS / "zh" / "derivation.md" in build.stale()


def test_the_snippets_run(tmp_path, monkeypatch):
    """Each as it stands, in a folder with pictures of one's own; only the training is shorter."""
    monkeypatch.chdir(tmp_path)
    pictures, _, _ = load_digits()
    (tmp_path / "my-pictures").mkdir()
    for i in range(60):
        Image.fromarray(pictures[i, :, :, 0]).save(tmp_path / "my-pictures" / f"{i}.png")
    shutil.copy(TRANSFORMER, tmp_path)
    own = ("quick_start", "derivation", "fast", "network", "guidance", "extending")
    for name in own:
        code = (DOCS / "snippets" / f"{name}.py").read_text(encoding="utf-8").replace("minutes=30", "steps=3")
        with registrations_forgotten():
            exec(compile(code, name, "exec"), found := {})
        if name == "derivation":
            assert torch.allclose(found["from_x_0"], found["from_eps"], atol=1e-5)
            assert found["x"].mean(0).tolist() == pytest.approx([1, -1], abs=0.15)
    assert found["pictures"].shape == (16, 1, 8, 8)
    assert found["pipeline"].denoiser.state_dict()["network.blocks.5.qkv.weight"].shape == (192, 64)
    assert {path.name for path in tmp_path.glob("*.png")} == {"new.png", "sixteen.png", "bright.png"}
    assert {path.stem for path in SNIPPETS} == {*own, *OF_RUNS, "angle", "transformer"}, "a snippet that no test runs"


@pytest.mark.parametrize("name", PAGES)
def test_all_python_of_a_page_comes_from_a_snippet(name):
    for language in ("en", "zh"):
        text = build.REGION.sub("", (DOCS / language / name).read_text(encoding="utf-8"))
        assert "```python" not in text


def test_the_site_builds_and_asks_no_other_host(tmp_path):
    pytest.importorskip("material")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    )
    assert built.returncode == 0, built.stderr
    pages = sorted((tmp_path / "site").glob("??/*.html"))
    assert [page.stem for page in pages] == [Path(name).stem for name in PAGES] * 2
    for page in pages:
        html = page.read_text(encoding="utf-8")
        assert f'<html lang="{page.parent.name}"' in html
        assert not re.findall(r'<(?:script|img|link|iframe)[^>]*(?:src|href)="?(?:https?:)?//[^">]*', html), page
        words = re.sub(r"<(code|pre|script).*?</\1>", "", html, flags=re.S)
        assert not re.search(r"\$\$|`", words), page
        assert not re.search(r"<mi>(;|&#x0007E;|&#x00064;)</mi>", html), page  # signs and differentials are no letters
        assert page.parent.name == "en" or "Table of contents" not in html, page
        for link in re.findall(r'<a href="((?!http|mailto)[^"#]+)', html):
            assert (page.parent / link).exists(), (page.name, link)
    styles = "".join(path.read_text(encoding="utf-8") for path in (tmp_path / "site").rglob("*.css"))
    assert not re.findall(r"url\(.?(?:https?:)?//", styles)
    assert (tmp_path / "site" / "en" / "derivation.html").read_text(encoding="utf-8").count("<math") > 80


# --- code -------------------------------------------------------------------------------------------------------------------------


def test_examples_are_short_and_python_is_well_formed():
    """All but those that explain how something is built."""
    longer = [f for f in SNIPPETS if f.stem not in (*OF_RUNS, "quick_start")]
    regions = {build.region_of(f.read_text(encoding="utf-8"), r) for f in longer for r in regions_of(f)}
    whole = {file.read_text(encoding="utf-8") for file in (SNIPPET, TRANSFORMER)}
    for _, path in TEXTS.items():
        for language, code in code_blocks(path.read_text(encoding="utf-8")):
            if language == "python":
                ast.parse(code)
            if code not in whole and code not in regions:
                assert len(code.splitlines()) <= LONGEST_EXAMPLE, code


def settings_of(text: str) -> list[str]:
    """What stands behind each --set, in blocks and within lines, where it is no placeholder in capitals."""
    spans = re.findall(r"`([^`\n]*--set [^`\n]*)`", without_code(text)) + [
        shlex.join(words) for words in commands(text)
    ]
    words = [word for span in spans for word in shlex.split(span)]
    found = [following for word, following in pairwise(words) if word == "--set" and "=" in following]
    return [setting for setting in found if not setting.partition("=")[2].isupper()]


@pytest.mark.parametrize("path", TEXTS.values(), ids=TEXTS)
def test_options_and_recipes_of_the_commands_exist(path):
    group = typer.main.get_command(cli.app)
    for words in commands(path.read_text(encoding="utf-8")):
        command = group.commands[words[1]]
        known = {name for p in command.params for name in (*p.opts, *p.secondary_opts)}
        assert {word for word in words if word.startswith("-")} <= known, words
        for word, following in pairwise(words):
            if word == "--config" and not following.startswith("RUN"):
                assert (ROOT / following).is_file(), words


@pytest.mark.parametrize("path", TEXTS.values(), ids=TEXTS)
def test_settings_of_the_pages_are_accepted(path):
    with registrations_forgotten():
        for file in (SNIPPET, TRANSFORMER):  # the condition and the network of one's own that the pages show
            alphabar.load_plugin(file)
        for setting in settings_of(path.read_text(encoding="utf-8")):
            finish(resolve(None, None, [setting]), [32, 32])


def test_lists_of_words_can_be_set():
    assert resolve(None, None, ["data.flip_except=[left, right]"]) == {"data": {"flip_except": ["left", "right"]}}


# --- a condition of one's own ------------------------------------------------------------------------------------------------------


@pytest.fixture
def angle():
    """The snippet as a plugin, forgotten afterwards."""
    with registrations_forgotten():
        yield alphabar.load_plugin(SNIPPET)


@pytest.fixture
def bars(tmp_path):
    """Bars drawn at angles, and a metadata.csv that tells them."""
    folder, rows = tmp_path / "bars", [("file_name", "angle")]
    folder.mkdir()
    for i in range(24):
        degrees, picture = 7.5 * i, Image.new("L", (16, 16), "white")
        x, y = 7 * math.cos(math.radians(degrees)), 7 * math.sin(math.radians(degrees))
        ImageDraw.Draw(picture).line([(8 - x, 8 + y), (8 + x, 8 - y)], fill="black", width=2)
        picture.save(folder / f"{i}.png")
        rows.append((f"{i}.png", f"{degrees:g}"))
    write_rows(folder, rows)
    return folder


def write_rows(folder: Path, rows: list[tuple[str, str]]) -> None:
    with (folder / "metadata.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)


SMALL = {
    "network.channels": [8, 16],
    "network.blocks": 1,
    "network.attention": [False, True],
    "network.groups": 4,
    "schedule.steps": 25,
    "train.batch_size": 8,
    "train.preview_pictures": 2,
    "train.preview_steps": 2,
    "data.held_out": 0.2,
}
ASKED = {**SMALL, "data.conditions": ["angle"]}


@pytest.fixture
def run(angle, bars, tmp_path):
    """A run of a few steps."""
    for _ in alphabar.train(bars, out=tmp_path / "run", steps=3, settings=ASKED):
        pass
    return tmp_path / "run"


def command_line(monkeypatch, capsys, *arguments: object) -> tuple[int, str]:
    code, out, error = run_command_line(monkeypatch, capsys, *arguments)
    return code, " ".join((out + error).split())


def test_its_values_come_from_the_column_and_are_found_without_asking(angle, bars, tmp_path):
    session = alphabar.prepare(bars, tmp_path / "run", steps=3, settings=SMALL)
    assert session.report.conditions == {"angle": "column 'angle'"}
    assert session.config.data.conditions == ["angle"]
    assert session.config.data.flip is False
    found = {name: float(value) for name, value in zip(session.data.names, session.data.values["angle"], strict=True)}
    assert all(value == 7.5 * int(name.removesuffix(".png")) for name, value in found.items())
    assert session.plan.parameters > 0


def test_it_trains_goes_on_and_makes_pictures_from_python(angle, bars, run, tmp_path):
    reports = list(alphabar.prepare(None, run, resume=True, steps=5).run())
    assert [report.step for report in reports] == [4, 5]
    whole = list(alphabar.train(bars, out=tmp_path / "whole", steps=5, settings=ASKED))
    assert [report.loss for report in whole[3:]] == [report.loss for report in reports]
    pipeline = alphabar.load(run).with_settings(steps=5)
    assert pipeline.conditions == ["angle"]
    samples = pipeline.sample(2, conditions={"angle": 30.0}, guidance={"angle": 3.0})
    assert samples.pictures.shape == (2, 16, 16, 1)
    assert samples.record_of(0)["angle"] == "30.0"
    assert len(pipeline.sample(conditions={"angle": [0, 45, None]})) == 3


def test_it_trains_and_makes_pictures_from_the_command_line(angle, bars, tmp_path, monkeypatch, capsys):
    sets = [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}".replace("'", ""))]
    out = tmp_path / "run"
    code, told = command_line(
        monkeypatch, capsys, "train", bars, "--out", out, "--cond", "angle", "--steps", 2, *sets, "--set",
        "conditions.angle.frequencies=2",
    )  # fmt: skip
    assert code == 0
    assert "angle: column 'angle'" in told
    path = tmp_path / "x.npz"
    sample = ("sample", out, "-n", 2, "--steps", 3, "--out")
    assert command_line(monkeypatch, capsys, *sample, path, "--cond", "angle=30", "--guidance", 2)[0] == 0
    assert np.load(path)["images"].shape == (2, 16, 16, 1)
    grid = tmp_path / "grid.png"
    assert command_line(monkeypatch, capsys, *sample, grid, "--cond", "angle=30", "--guidance", "1,2,4")[0] == 0
    code, told = command_line(monkeypatch, capsys, *sample, tmp_path / "y.png", "--cond", "angle=up")
    assert code == 2
    assert "'up' as the angle is not a number of degrees" in told
    code, told = command_line(monkeypatch, capsys, *sample, tmp_path / "y.png", "--cond", "age=3")
    assert code == 2
    assert "not trained with age; it accepts: angle" in told


def test_pictures_without_a_usable_angle_are_left_out_and_named(angle, bars, tmp_path):
    rows = [("file_name", "angle"), *((f"{i}.png", str(i)) for i in range(20)), ("20.png", ""), ("21.png", "steep")]
    write_rows(bars, rows)
    session = alphabar.prepare(bars, tmp_path / "run", steps=3, settings=ASKED)
    assert [name for name, _ in session.report.skipped] == ["20.png", "21.png"]
    assert "'steep' in its column 'angle' is not a number of degrees" in session.report.skipped[1][1]
    with pytest.raises(DataError, match=r"20\.png"):
        alphabar.prepare(bars, tmp_path / "run", steps=3, settings={**ASKED, "data.strict": True})


def test_data_without_the_column_is_refused(angle, bars, tmp_path):
    write_rows(bars, [("file_name", "slant"), ("0.png", "3"), ("1.png", "4")])
    with pytest.raises(ConfigurationError, match="needs a column 'angle' with degrees"):
        alphabar.prepare(bars, tmp_path / "run", steps=3, settings=ASKED)


def test_a_value_may_be_an_array_of_any_type(angle, bars):
    class DirectionReader(angle.AngleReader):
        def offer(self, name, settings, catalogue):
            found = super().offer(name, settings, catalogue)

            def read(file, size):
                radians = math.radians(found.read(file, size))
                return np.array([math.cos(radians), math.sin(radians)], np.float32)

            return Offer(found.origin, read, settings)

    kinds.register("angle", DirectionReader(), angle.AngleEncoder)
    loaded = load_with_conditions(DataSettings(source=str(bars), held_out=0, conditions=["angle"]))
    values = loaded.train.values["angle"]
    assert values.shape == (24, 2)
    assert values.dtype == np.float32
    assert np.allclose((values**2).sum(1), 1)


def test_angles_that_agree_on_the_circle_are_the_same_and_null_is_its_own(angle):
    encoder = angle.AngleEncoder(angle.AngleSettings(), Sizes((1, 16, 16), 32, 8))
    values = encoder.read(["30", 390.0, -330, None, 31], [])
    vector = encoder(values, 5).vector
    assert np.allclose(vector[0].detach(), vector[1].detach(), atol=1e-4)
    assert np.allclose(vector[0].detach(), vector[2].detach(), atol=1e-4)
    assert vector[3].equal(encoder(None, 1).vector[0])
    assert not np.allclose(vector[0].detach(), vector[4].detach(), atol=1e-4)
    with pytest.raises(ConfigurationError, match="not a number of degrees"):
        encoder.read([float("inf")], [])

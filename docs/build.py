"""What the pages share with the code is written by the code: formulas, snippets, short forms, the reference.

python docs/build.py            write them into docs/en and docs/zh
python docs/build.py --check    fail if a page is stale
mkdocs build                    the site, into site/ (pip install '.[docs]')

A page holds `<!-- formula: LABEL -->`, `<!-- snippet: FILE REGION -->`, `<!-- short: TOPIC -->` or `<!-- reference: cli|python|settings -->`, and
`<!-- / -->` after it; what stands between them is replaced.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

DOCS = Path(__file__).parent
ROOT = DOCS.parent
REGION = re.compile(r"(<!-- (formula|snippet|short|reference): ([^\n]*?) -->\n).*?(<!-- / -->)", re.S)
PROOFS = "tests/laws/test_derivation.py"


def formula(label: str, language: str) -> str:
    """The formula, the function that computes it, and where it is proved."""
    from alphabar.explain.formulas import FORMULAS

    found = FORMULAS[label]
    words = {"en": "proof", "zh": "证明"}[language]
    file = f"src/alphabar/{module_file(found.function)}"
    return f"\n$$\n{found.latex}\n$$\n\n`{label}` · [`{found.function}`](../../{file}) · [{words}](../../{PROOFS})\n\n"


def module_file(function: str) -> str:
    """gaussian.diffuse -> gaussian.py"""
    parts = function.split(".")
    while parts:
        parts.pop()
        path = "/".join(parts) + ".py"
        if (ROOT / "src" / "alphabar" / path).is_file():
            return path
    raise KeyError(f"no module of {function}")


def snippet(text: str, language: str) -> str:
    """A region of a file in docs/snippets."""
    name, _, region = text.partition(" ")
    return f"```python\n{region_of((DOCS / 'snippets' / name).read_text(encoding='utf-8'), region)}```\n"


def region_of(code: str, region: str) -> str:
    """The lines between `# region NAME` and `# endregion`, less their common indentation; the whole file without a name."""
    if not region:
        return code
    found = re.search(rf"^( *)# region {re.escape(region)}\n(.*?)^ *# endregion", code, re.S | re.M)
    if found is None:
        raise KeyError(f"no region {region!r}")
    return re.sub(rf"^{found[1]}", "", found[2], flags=re.M).rstrip() + "\n"


def short(topic: str, language: str) -> str:
    """What `alphabar explain TOPIC` says, as a quotation."""
    from alphabar.explain.topics import TOPICS

    lines = TOPICS[topic].text[language].splitlines()
    words = {"en": "In the terminal ", "zh": "在终端里："}[language]
    joint = " " if language == "en" else ""
    return f"\n> {joint.join(lines)}\n>\n> {words}`alphabar explain {topic} --lang {language}`\n\n"


def reference(kind: str, language: str) -> str:
    """All commands, all settings, or all public functions, as the code has them."""
    return {"cli": cli_reference, "settings": settings_reference, "python": python_reference}[kind](language)


def cli_reference(language: str) -> str:
    """Every command with its arguments and options."""
    import typer

    from alphabar.cli import app

    heads = {"en": "| option | default | meaning |", "zh": "| 选项 | 默认值 | 含义 |"}[language]
    lines = []
    group = typer.main.get_command(app)
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        summary = (command.help or "").strip().splitlines()[0]
        lines += ["", f"### `alphabar {name}`", "", summary, "", heads, "| --- | --- | --- |"]
        for parameter in command.params:
            if parameter.name == "help":
                continue
            option = parameter.param_type_name == "option"
            words = ", ".join([*parameter.opts, *parameter.secondary_opts]) if option else parameter.metavar
            default = "" if parameter.default is None or not option else json.dumps(parameter.default, default=str)
            meaning = cell(getattr(parameter, "help", "") or "")
            lines.append(f"| `{words}` | {f'`{cell(default)}`' if default else ''} | {meaning} |")
    return "\n".join(lines) + "\n\n"


def cell(text: str) -> str:
    """Text that may stand in a table."""
    return " ".join(text.split()).replace("|", r"\|").replace("<", "&lt;")


def settings_reference(language: str) -> str:
    """Every setting with its default."""
    from pydantic_core import PydanticUndefined

    from alphabar.settings.config import all_fields

    heads = {"en": "| setting | default | meaning |", "zh": "| 设置 | 默认值 | 含义 |"}[language]
    fields = [(key, field) for key, field in all_fields()]
    lines, seen = ["", heads, "| --- | --- | --- |"], set()
    for key, field in fields:
        if key in seen or not field.description:
            continue
        seen.add(key)
        default = field.get_default(call_default_factory=True)
        shown = "" if default is PydanticUndefined else f"`{json.dumps(default, default=str)}`"
        lines.append(f"| `{key}` | {cell(shown)} | {cell(field.description)} |")
    return "\n".join(lines) + "\n\n"


MODULES = (
    "alphabar", "alphabar.diffusion.schedule", "alphabar.diffusion.gaussian", "alphabar.diffusion.parameterization", "alphabar.diffusion.denoiser", "alphabar.diffusion.loss",
    "alphabar.diffusion.guidance", "alphabar.generation.pipeline", "alphabar.generation.editing", "alphabar.evaluation.distances", "alphabar.evaluation.likelihood",
)  # fmt: skip


def python_reference(language: str) -> str:
    """Every public class and function of the modules that are used from outside, with the first paragraph of its docstring."""
    lines = []
    for name in MODULES:
        module = importlib.import_module(name)
        lines += ["", f"### `{name}`", "", paragraph(module), ""]
        lines += [f"- `{signature}`: {text}" for signature, text in members(module)]
    return "\n".join(lines) + "\n\n"


def members(module: object) -> Iterator[tuple[str, str]]:
    """(signature, what it does) of what is defined in a module, and of the methods of its classes."""
    listed = getattr(module, "__all__", None)
    for name, found in vars(module).items():
        if name.startswith("_") or not (inspect.isclass(found) or inspect.isfunction(found)):
            continue
        if (listed is not None and name not in listed) or (listed is None and found.__module__ != module.__name__):  # type: ignore[attr-defined]
            continue
        yield name + parameters(found), paragraph(found)
        if inspect.isclass(found):
            for method, value in vars(found).items():
                if not method.startswith("_") and inspect.isfunction(value) and value.__doc__:
                    yield f"{name}.{method}{parameters(value)}", paragraph(value)


def parameters(found: Callable[..., object]) -> str:
    """(a, b=1): the names and defaults of what it takes."""
    try:
        taken = inspect.signature(found).parameters.values()
    except (TypeError, ValueError):
        return ""
    words = [
        p.name if p.default is p.empty else f"{p.name}={getattr(p.default, '__name__', repr(p.default))}"
        for p in taken
        if p.name not in ("self", "cls")
    ]
    return f"({', '.join(words)})"


def paragraph(found: object) -> str:
    """The first paragraph of a docstring on one line."""
    return " ".join((inspect.getdoc(found) or "").split("\n\n")[0].split()).replace("<", "&lt;")


WRITERS = {"formula": formula, "snippet": snippet, "short": short, "reference": reference}


def written(text: str, language: str) -> str:
    """A page with all its regions as the code has them."""
    return REGION.sub(lambda m: m[1] + WRITERS[m[2]](m[3], language) + m[4], text)


def pages() -> Iterator[tuple[Path, str]]:
    """Every page with its language."""
    for language in ("en", "zh"):
        for path in sorted((DOCS / language).glob("*.md")):
            yield path, language


def stale() -> list[Path]:
    """The pages that differ from what the code has."""
    return [
        path
        for path, language in pages()
        if written(path.read_text(encoding="utf-8"), language) != path.read_text(encoding="utf-8")
    ]


def main() -> None:
    """Write, or only check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="fail if a page is stale")
    if parser.parse_args().check:
        if found := stale():
            sys.exit(f"stale, run python docs/build.py: {', '.join(str(path.relative_to(ROOT)) for path in found)}")
        return
    for path, language in pages():
        text = path.read_text(encoding="utf-8")
        if (new := written(text, language)) != text:
            path.write_text(new, encoding="utf-8")
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()

"""What MkDocs does to the pages beside turning them into HTML: formulas become MathML, which browsers draw themselves, and links to the
source lead to copies of it. Nothing on the site asks another host for anything."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert

ROOT = Path(__file__).parents[1]
FENCE, CODE = re.compile(r"(^```.*?^```)", re.S | re.M), re.compile(r"(`[^`\n]+`)")
BLOCK, INLINE = re.compile(r"^\$\$\n(.*?)\n\$\$$", re.S | re.M), re.compile(r"\$([^$\n]+)\$")
SOURCE = re.compile(r"\[([^\[\]]+)\]\((?:\.\./\.\./|\.\./(?=snippets/))([^)#]+)\)")
SIGN = "[\\u3000-\\u303f\\u4e00-\\u9fff\\uff00-\\uffef]"
BREAK = re.compile(rf"(?<={SIGN})\n(?={SIGN})")  # within a Chinese sentence, where it would become a space
_linked: set[str] = set()


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Formulas and links of a page, outside of its code."""
    parts = FENCE.split(markdown)
    return "".join(part if i % 2 else written(part, page.url.startswith("zh/")) for i, part in enumerate(parts))


def written(text: str, chinese: bool) -> str:
    """Text between blocks of code."""
    text = SOURCE.sub(source_link, BREAK.sub("", text) if chinese else text)
    return "".join(part if i % 2 else with_mathml(part) for i, part in enumerate(CODE.split(text)))


def with_mathml(text: str) -> str:
    """`$$...$$` on lines of its own and `$...$` as MathML."""
    text = BLOCK.sub(lambda m: f"\n{convert(m[1], display='block')}\n", text)
    return INLINE.sub(
        lambda m: f"<span>{convert(m[1])}</span>", text
    )  # a line that starts with <math> would be a block


def source_link(match: re.Match[str]) -> str:
    """A link to a file of the repository as a link to its copy; code in the words stays code."""
    path = match[2] if (ROOT / match[2]).exists() else f"docs/{match[2]}"
    _linked.add(path)
    words = re.sub(r"`([^`]+)`", r"<code>\1</code>", match[1])
    return f'<a href="../source/{path}.txt">{words}</a>'


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """A Chinese page says so."""
    return re.sub(r'<html lang="\w+"', '<html lang="zh"', output, count=1) if page.url.startswith("zh/") else output


def on_post_build(config: Any, **_: Any) -> None:
    """Copy the files that pages lead to."""
    for path in sorted(_linked):
        target = Path(config["site_dir"]) / "source" / f"{path}.txt"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, target)

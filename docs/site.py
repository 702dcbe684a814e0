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
BLOCK, INLINE = re.compile(r"^\$\$\n(.*?)\n\$\$$", re.S | re.M), re.compile(r"\$([^$\n]+)\$([.,;:]?)")
WIDE = 280  # signs of LaTeX that would not fit into the column
SOURCE = re.compile(r"\[([^\[\]]+)\]\((?:\.\./\.\./|\.\./(?=snippets/))([^)#]+)\)")
MARK = "[\\u3000-\\u303f\\uff00-\\uffef]"
SIGN = f"(?:{MARK}|[\\u4e00-\\u9fff])"
BREAK = re.compile(rf"(?<={SIGN})\n *(?={SIGN})|(?<={MARK})\n *(?=[A-Za-z0-9`\[$])(?!\$\$|\[[^\]]*\]:|\d+[.)] )")
"""Within a Chinese sentence, where it would become a space."""
AMENDED = {
    "<mi>&#x0007E;</mi>": "<mo>&#x0223C;</mo>",
    "<mi>;</mi>": '<mo separator="true">;</mo>',
    "<mi>&#x00064;</mi>": '<mi mathvariant="normal">d</mi>',
}
"""What the converter takes for a letter: the sign of "distributed as", a semicolon, the d of a differential."""
THEME = {
    "Table of contents": "目录", "Search": "搜索", "Clear": "清除", "Skip to content": "跳到正文", "Back to top": "回到顶部",
    "Initializing search": "正在准备搜索", "Permanent link": "永久链接", "Header": "页首", "Navigation": "导航", "Tabs": "标签",
    "dark": "深色", "light": "浅色",
}  # fmt: skip
"""What the theme writes on a page."""
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
    text = BLOCK.sub(lambda m: f"\n{mathml(m[1], 'block')}\n", text)
    # A line that starts with <math> would be a block; a full stop stays beside its formula.
    return INLINE.sub(lambda m: f'<span class="formula">{mathml(m[1])}{m[2]}</span>', text)


def mathml(latex: str, display: str = "inline") -> str:
    """The formula with what the converter leaves out: space around functions, and a minus that is none between two things."""
    text: str = convert(latex, display=display)
    for found, better in AMENDED.items():
        text = text.replace(found, better)
    space = '<mspace width="0.167em" />'
    text = re.sub(r"(?<!<msub>)(?<!<msup>)(<mi>(?:log|exp|sin|cos)</mi>)(?!<mrow><mo|<mo)", rf"\1{space}", text)
    text = re.sub(r"(?<!<mrow>)(?<!<msub>)(?<!<msup>)(<mi>(?:log|exp)</mi>)", rf"{space}\1", text)
    text = re.sub(
        r"(<mo [^>]*>(?:\(|\[|&#x00028;|&#x0005B;)</mo>)<mo>&#x02212;", r'\1<mo form="prefix">&#x02212;', text
    )
    return text.replace("<math ", '<math class="wide" ', 1) if len(latex) > WIDE else text


def source_link(match: re.Match[str]) -> str:
    """A link to a file of the repository as a link to its copy; code in the words stays code."""
    path = match[2] if (ROOT / match[2]).exists() else f"docs/{match[2]}"
    _linked.add(path)
    words = re.sub(r"`([^`]+)`", r"<code>\1</code>", match[1])
    return f'<a href="../source/{path}.txt">{words}</a>'


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """A Chinese page says so, and most of what the theme adds is Chinese too: its labels, and what it says around the text."""
    if not page.url.startswith("zh/"):
        return output
    for english, chinese in THEME.items():
        output = re.sub(rf'((?:aria-label|title|placeholder)=")\s*{english}\s*(?=")', rf"\1{chinese}", output)
        around = rf'(<(?:a|div|label|button)[^>]*class="md-[^>]*>(?:\s*<(?:svg|span).*?</(?:svg|span)>)?)\s*{english}\s*(?=<)'
        output = re.sub(around, rf"\1{chinese}", output)
    return re.sub(r'<html lang="\w+"', '<html lang="zh"', output, count=1)


def on_post_build(config: Any, **_: Any) -> None:
    """Copy the files that pages lead to."""
    for path in sorted(_linked):
        target = Path(config["site_dir"]) / "source" / f"{path}.txt"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, target)

"""An evaluation as one page that needs nothing else: pictures are inside it, and it asks no other host for anything."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..generation.images import grid, to_image
from .run_evaluation import Evaluation

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; background: #fff }
table { border-collapse: collapse; margin: 1rem 0 } td, th { padding: .25rem .8rem; border-bottom: 1px solid #ddd; text-align: right }
td:first-child, th:first-child { text-align: left } img { max-width: 100%; image-rendering: pixelated }
pre { background: #f5f5f5; padding: 1rem; overflow: auto; font-size: 13px } .note { color: #666 }
@media (prefers-color-scheme: dark) { body { background: #181818; color: #ddd } pre { background: #242424 } td, th { border-color: #444 } }
"""
ROWS = {
    "kernel": ("kernel distance x 1000", "0 for equal distributions, within its error"),
    "frechet": ("Frechet distance", "lower is better; compare at the same number of pictures only"),
    "precision": ("precision", "the share of pictures that look real"),
    "recall": ("recall", "the share of real pictures that could have come out"),
    "density": ("density", "how deep in the real ones; 1 as real pictures, more for the most typical"),
    "coverage": ("coverage", "the share of real pictures with a picture near them"),
}


def table_rows(found: Evaluation) -> list[tuple[str, str, str, str]]:
    """Name, value, the floor's value, and what it means, of each metric."""
    rows = []
    own, floor = asdict(found.found), asdict(found.floor)
    for key, (name, meaning) in ROWS.items():
        if key == "frechet" and found.record["fid"]:
            name = "FID"
        rows.append((name, number(own, key), number(floor, key), meaning))
    if found.accuracy is not None:
        real = found.accuracy.get("real")
        value = f"{found.accuracy['share']:.3f} ± {found.accuracy['standard_error']:.3f}"
        rows.append(
            (
                "class accuracy",
                value,
                "-" if real is None else f"{real:.3f}",
                "the share that a classifier takes for what was asked",
            )
        )
    if found.memorisation is not None:
        own_copies = found.memorisation
        rows.append(
            (
                "distance to training",
                f"{own_copies.samples:.3f}",
                f"{own_copies.held_out:.3f}",
                "of the nearest one, median, pixels in [-1, 1]",
            )
        )
        rows.append(
            (
                "copies",
                f"{own_copies.copies:.3f}",
                f"{own_copies.expected:.3f}",
                "the share nearer to training than 99 % of real pictures are",
            )
        )
    return rows


def number(values: Mapping[str, float], key: str) -> str:
    """A metric as a table shows it."""
    if key == "kernel":
        return f"{1000 * values['kernel']:.2f} ± {1000 * values['kernel_error']:.2f}"
    return f"{values[key]:.3f}"


def write_report(found: Evaluation, title: str, run: Path | None = None) -> str:
    """The page. run: a run folder, whose loss curve, filmstrip and settings are shown too."""
    parts = [f"<h1>{html.escape(title)}</h1>", metrics_section(found)]
    parts += picture_section("Samples", found.pictures.get("samples"))
    parts += picture_section("Real pictures", found.pictures.get("real"))
    if found.by_steps:
        parts += ["<h2>Quality by steps</h2>", embedded(steps_plot(found)), steps_table(found)]
    if "closest" in found.pictures:
        half = len(found.pictures["closest"]) // 2
        parts += picture_section(
            "Nearest neighbours", found.pictures["closest"], half,
            "Above, the samples that lie nearest to a training picture; below, that training picture. The same picture twice means that it was learned by heart.",
        )  # fmt: skip
    if run is not None:
        parts += run_section(run)
    parts += ["<h2>Record</h2>", f"<pre>{html.escape(lines_of(found.record))}</pre>"]
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def metrics_section(found: Evaluation) -> str:
    """The table of metrics beside their floors."""
    n = found.record["n"]
    head = "<tr><th>metric</th><th>samples</th><th>real</th><th>meaning</th></tr>"
    rows = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in table_rows(found)
    )
    note = f"{n} pictures on each side. “real” is the floor: other real pictures against the same ones."
    return f"<table>{head}{rows}</table><p class=note>{note}</p>"


def picture_section(title: str, pictures: np.ndarray | None, columns: int | None = None, text: str = "") -> list[str]:
    """A grid of pictures under a heading."""
    if pictures is None or not len(pictures):
        return []
    stream = io.BytesIO()
    to_image(grid(pictures, columns)).save(stream, "PNG")
    return [
        f"<h2>{html.escape(title)}</h2>",
        f"<p>{html.escape(text)}</p>" if text else "",
        embedded(stream.getvalue()),
    ]


def run_section(run: Path) -> list[str]:
    """The loss curve, the filmstrip and the settings of a run, as far as they are there."""
    parts = []
    for title, name in (("Loss", "loss.png"), ("Samples over training", "previews/filmstrip.png")):
        if (run / name).is_file():
            parts += [f"<h2>{title}</h2>", embedded(smaller((run / name).read_bytes()))]
    if (run / "config.yaml").is_file():
        parts += ["<h2>Settings</h2>", f"<pre>{html.escape((run / 'config.yaml').read_text(encoding='utf-8'))}</pre>"]
    return parts


def smaller(png: bytes, most: int = 2400) -> bytes:
    """A picture with no side longer than `most` pixels."""
    with Image.open(io.BytesIO(png)) as image:
        if max(image.size) <= most:
            return png
        image.thumbnail((most, most))
        stream = io.BytesIO()
        image.save(stream, "PNG")
    return stream.getvalue()


def embedded(png: bytes) -> str:
    """An image as a part of the page."""
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def steps_table(found: Evaluation) -> str:
    """The distances by number of steps."""
    rows = "".join(
        f"<tr><td>{steps}</td><td>{number(asdict(of), 'kernel')}</td><td>{number(asdict(of), 'frechet')}</td></tr>"
        for steps, of in sorted(found.by_steps.items())
    )
    return f"<table><tr><th>steps</th><th>kernel distance x 1000</th><th>Frechet distance</th></tr>{rows}</table>"


def steps_plot(found: Evaluation) -> bytes:
    """The kernel distance over the number of steps, with its errors and the floor, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.5), dpi=100, layout="constrained")
    axes = figure.subplots()
    steps = sorted(found.by_steps)
    values = [1000 * found.by_steps[k].kernel for k in steps]
    errors = [1000 * found.by_steps[k].kernel_error for k in steps]
    axes.errorbar(steps, values, errors, marker="o", capsize=3, label="samples")
    axes.axhline(1000 * found.floor.kernel, color="tab:gray", linestyle="--", label="real pictures")
    axes.set(xscale="log", xlabel="steps", ylabel="kernel distance x 1000", xticks=steps, xticklabels=map(str, steps))
    axes.minorticks_off()
    axes.legend()
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def lines_of(record: Mapping[str, Any]) -> str:
    """A record, a line an entry."""
    return "\n".join(f"{key}: {value}" for key, value in record.items())

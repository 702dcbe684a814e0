"""Makes the pins of today's behaviour anew.

    python tests/pins/make.py            # all of them
    python tests/pins/make.py losses     # or some: runs, pictures, losses, readme

runs      data/digits-run, data/shapes-run: runs of today's format
pictures  data/pictures.npz: what the runs give from fixed seeds
losses    data/losses.json: losses of short trainings and of the continued runs, with the processor and the torch
readme    data/readme_snippets.txt: what the READMEs show; the full commands, data/readme_commands.txt, are kept by hand

A pin is remade only where a change of behaviour is intended: the pull request says which one and why.
"""

from __future__ import annotations

import json
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from alphabar.machine import processor  # noqa: E402
from tests.pins.cases import (  # noqa: E402
    DATA,
    REQUESTS,
    RUNS,
    STATISTICS,
    TRAININGS,
    continued_losses,
    drawn,
    inside,
    sampled,
    train_fixtures,
    trained,
    write_shapes,
)
from tests.pins.snippets import snippets  # noqa: E402


def make_runs(place: Path) -> None:
    """Train both fixtures; leave out what can be made again and the version of the system."""
    train_fixtures(place)
    for name in RUNS:
        run, to = place / name, DATA / name
        shutil.rmtree(run / "cache", ignore_errors=True)
        for left_out in (".lock", "loss.png", "data-preview.png"):
            (run / left_out).unlink(missing_ok=True)
        environment = json.loads((run / "environment.json").read_text())
        (run / "environment.json").write_text(json.dumps(environment | {"system": platform.system()}))
        shutil.rmtree(to, ignore_errors=True)
        shutil.copytree(run, to)


def make_pictures(_: Path) -> None:
    """Sample every request."""
    with inside(DATA):
        pictures = {f"{run} {sampler}": sampled(run, sampler) for run in RUNS for sampler in REQUESTS[run]}
    np.savez_compressed(DATA / "pictures.npz", **pictures)


def make_losses(place: Path) -> None:
    """Train every case, go on with every fixture."""
    write_shapes(place / "shapes")
    for run in RUNS:
        shutil.copytree(DATA / run, place / f"copy-{run}")
    with inside(place):
        continued = {run: continued_losses(Path(f"copy-{run}"), run.removesuffix("-run")) for run in RUNS}
    pins = {
        "processor": processor(),
        "torch": torch.__version__,
        "losses": {name: [report.loss for report in trained(place, name)] for name in TRAININGS},
        "continued": continued,
        "statistics": {name: drawn(place, name) for name in STATISTICS},
    }
    (DATA / "losses.json").write_text(json.dumps(pins, indent=1) + "\n")


def make_readme(_: Path) -> None:
    """Extract what both READMEs show."""
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh.md")]
    shown = dict.fromkeys(snippet for text in texts for snippet in snippets(text))
    (DATA / "readme_snippets.txt").write_text("\n".join(shown) + "\n", encoding="utf-8")


PARTS: dict[str, Callable[[Path], None]] = {
    "runs": make_runs,
    "pictures": make_pictures,
    "losses": make_losses,
    "readme": make_readme,
}


def main(names: list[str]) -> None:
    """Make the named parts, or all, in their order."""
    if unknown := set(names) - set(PARTS):
        sys.exit(f"no such pins: {', '.join(sorted(unknown))}; give {', '.join(PARTS)}, or nothing for all")
    for name, make in PARTS.items():
        if not names or name in names:
            with tempfile.TemporaryDirectory() as place:
                make(Path(place))
            print(f"made {name}")


if __name__ == "__main__":
    main(sys.argv[1:])

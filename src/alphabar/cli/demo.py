"""`alphabar demo`: from nothing to new digits in a few minutes on a CPU."""

from __future__ import annotations

from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import command_line

if TYPE_CHECKING:
    from ..training.session import Session

MINUTES, FULL_STEPS, SAMPLING_STEPS = 2.0, 1500, 100
RECIPE = {"train.batch_size": 64, "train.rate": "cosine"}
GRID, ANIMATED = 100, 20


def demo(
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The run folder to make. Default: runs/demo, or runs/demo-2, ...")
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Optimizer steps. Default: 1500, or as many as fit into 2 minutes."),
    ] = None,
) -> None:
    """Train a class-conditional model on the embedded handwritten digits and make new ones, in under three minutes on two cores."""
    from .train import describe_session
    from .watch import console, watch

    out = out or first_free(Path("runs/demo"))
    session = prepare_demo(out, steps)
    describe_session(session)
    watch(session)
    if session.stopped_early:
        console.print(
            f"stopped at step {session.trainer.steps_done}; go on with: alphabar train --out {out} --resume",
            markup=False,
        )
        return
    make_pictures(out)
    console.print(f"\nYour new digits: {out / 'samples.png'}", markup=False)
    console.print(
        f"Their way from noise: {out / 'denoising.webp'}; while training: {out / 'previews' / 'filmstrip.png'}",
        markup=False,
    )
    console.print(f"The data: {out / 'data-preview.png'}; the loss: {out / 'loss.png'}\n\nNext, try:", markup=False)
    console.print(f"  alphabar sample {out} -n 64 --class 7 --out sevens.png", markup=False)
    console.print(f"  alphabar info {out}", markup=False)
    console.print("  alphabar train FOLDER-OF-YOUR-PICTURES --out runs/mine --minutes 30", markup=False)


def first_free(path: Path) -> Path:
    """The path, or path-2, path-3, ..., whichever does not exist yet."""
    numbered = (path if n == 1 else path.with_name(f"{path.name}-{n}") for n in count(1))
    return next(candidate for candidate in numbered if not candidate.exists())


def prepare_demo(out: Path, steps: int | None) -> Session:
    """A session on the digits: the given steps, or the full number if it fits into the time."""
    from ..training.session import prepare

    prepared = partial(prepare, "digits", out, preset="tiny", settings=RECIPE, command=command_line())
    session = prepared(steps=steps, minutes=None if steps else MINUTES)
    return prepared(steps=FULL_STEPS) if steps is None and session.plan.steps > FULL_STEPS else session


def make_pictures(out: Path) -> None:
    """samples.png and denoising.webp from the finished run."""
    from ..generation.images import save_animation
    from ..generation.pipeline import load
    from ..randomness import derive_seeds
    from .watch import Frames, sampling_bar

    pipeline = load(out).with_settings(steps=SAMPLING_STEPS)
    with sampling_bar(1, pipeline.steps) as update:
        pipeline.sample(GRID, on_state=update).save(out / "samples.png")
    frames = Frames()
    for state in pipeline.states(derive_seeds(1, ANIMATED), pipeline.ask(ANIMATED, {})):
        frames.see(state)
    save_animation(out / "denoising.webp", frames.grids)

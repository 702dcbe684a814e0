"""`alphabar sample`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import numpy as np

    from ..pipeline import Pipeline

LARGEST_ANIMATION = 100
FRAMES = 60


def sample(
    run: Annotated[Path, typer.Argument(help="A run folder, or a checkpoint folder in it.")],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help=".npy or .npz: an array (N, H, W, C) uint8; .png: one grid; .webp or .gif: the denoising animation; else a folder.",
        ),
    ],
    n: Annotated[int | None, typer.Option("-n", min=1, help="How many pictures. Default: 16.")] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Reverse steps, at most the T of training. Default: 250.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="One seed, from which each picture's own is derived. Default: 0.")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="The pictures' own seeds, one each: 0-63, or 5,7,20-29.")] = None,
    variance: Annotated[
        str | None,
        typer.Option(
            help="Noise of a reverse step: posterior, beta, or learned. Default: learned if it was, else posterior."
        ),
    ] = None,
    clip: Annotated[
        str | None,
        typer.Option(help="Keep the estimate of the clean picture in range: static, dynamic, or off. Default: static."),
    ] = None,
    label: Annotated[
        str | None, typer.Option("--class", help="The class to make. Default: all classes in turn.")
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="A step, step-N, or a checkpoint folder. Default: the newest.")
    ] = None,
    raw_weights: Annotated[
        bool, typer.Option("--raw-weights", help="Use the weights of training instead of their average.")
    ] = False,
    batch: Annotated[int | None, typer.Option(min=1, help="Pictures at a time. Default: as many as fit.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, mps, or auto.")] = "auto",
) -> None:
    """Make new pictures with a trained model."""
    from ..output import ANIMATIONS, check_output
    from ..pipeline import load
    from ..randomness import derive_seeds
    from .watch import console

    chosen = parse_seeds(n, seeds) if seeds is not None else None
    if chosen is not None and seed is not None:
        from ..errors import ConfigurationError

        raise ConfigurationError("give --seed or --seeds, not both")
    check_output(out)
    pipeline = load(run, checkpoint, raw_weights, device).with_settings(steps=steps, variance=variance, clip=clip)
    own_seeds = chosen if chosen is not None else derive_seeds(seed or 0, n or 16)
    classes = pipeline.choose_classes(len(own_seeds), label)
    if out.suffix.lower() in ANIMATIONS:
        _animate(pipeline, out, own_seeds, classes)
    else:
        _write(pipeline, out, own_seeds, classes, batch)
    record = pipeline.sampling_record()
    console.print(
        f"{len(own_seeds)} pictures in {out}: {record['weights']} weights of {record['checkpoint']} (model {record['model']}), "
        f"{record['sampler']} in {record['steps']} steps", markup=False,
    )  # fmt: skip


def parse_seeds(n: int | None, text: str) -> list[int]:
    """'0-3,7' -> [0, 1, 2, 3, 7]. Raises ConfigurationError if it is not such a list, or n disagrees with it."""
    from ..errors import ConfigurationError

    seeds: list[int] = []
    try:
        for part in text.split(","):
            first, dash, last = part.strip().partition("-")
            seeds += range(int(first), int(last) + 1) if dash else [int(first)]
    except ValueError:
        seeds = []
    if not seeds:
        raise ConfigurationError(f"--seeds takes numbers and ranges, like 0-63 or 5,7,20-29; got {text!r}")
    if n is not None and n != len(seeds):
        raise ConfigurationError(f"-n {n} but {len(seeds)} seeds; leave -n out")
    return seeds


def _write(
    pipeline: Pipeline, out: Path, seeds: Sequence[int], classes: Sequence[str | None], batch: int | None
) -> None:
    from ..output import open_writer
    from .watch import sampling_bar

    batch = batch or pipeline.fitting_batch()
    batches = -(-len(seeds) // batch)
    with sampling_bar(batches, pipeline.steps) as update, open_writer(out, len(seeds)) as writer:
        for samples in pipeline.stream(seeds, classes, batch, update):
            writer.add(samples)


def _animate(pipeline: Pipeline, out: Path, seeds: Sequence[int], classes: Sequence[str | None]) -> None:
    from ..errors import ConfigurationError
    from ..images import save_animation
    from .watch import sampling_bar

    if len(seeds) > LARGEST_ANIMATION:
        raise ConfigurationError(
            f"an animation shows at most {LARGEST_ANIMATION} pictures, got {len(seeds)}; use a smaller -n"
        )
    with sampling_bar(1, pipeline.steps) as update:
        frames = animation_frames(pipeline, seeds, classes, update)
    save_animation(out, frames)


def animation_frames(
    pipeline: Pipeline, seeds: Sequence[int], classes: Sequence[str | None], update: object = None
) -> list[np.ndarray]:
    """Grids of x_t from noise to picture: every few steps, at most 60 of them, the last one being the result."""
    from ..data.pictures import to_uint8
    from ..images import grid

    stride = math.ceil(pipeline.steps / FRAMES)
    frames = []
    for state in pipeline.states(seeds, classes):
        if callable(update):
            update(state)
        if (state.steps - state.step) % stride == 0:
            frames.append(grid(to_uint8(state.x_t)))
    return frames

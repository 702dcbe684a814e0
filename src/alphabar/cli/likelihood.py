"""`alphabar likelihood`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ConfigurationError
from .options import Batch, Checkpoint, Device, RawWeights, Run, Split

if TYPE_CHECKING:
    from ..evaluation.pictures import RealPictures
    from ..evaluation.run_likelihood import Likelihood

NAMES = {
    "bound": "variational bound",
    "prior": "  prior",
    "steps": "  steps",
    "decoder": "  decoder",
    "ode": "probability-flow ODE",
}


def likelihood(
    run: Run,
    data: Annotated[
        str | None,
        typer.Option(
            help="Real pictures: a folder, a .npz or .npy file, or a built-in set, such as fashion-mnist-test. Default: those of the run."
        ),
    ] = None,
    split: Split = None,
    n: Annotated[int, typer.Option("-n", min=1, help="How many pictures, drawn by the seed.")] = 64,
    steps_bound: Annotated[
        int | None,
        typer.Option(min=1, help="Steps of the bound; fewer than T bound another, coarser model. Default: all T."),
    ] = None,
    steps_ode: Annotated[int, typer.Option(min=2, help="Steps of the ODE.")] = 100,
    probes: Annotated[int, typer.Option(min=1, help="Random directions for each divergence of the ODE.")] = 1,
    variance: Annotated[
        str | None,
        typer.Option(help="Of the bound: posterior, beta, or learned. Default: as the run samples."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of which pictures, and of all noise.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="A .json file for everything: each step, each picture, the record."),
    ] = None,
    checkpoint: Checkpoint = None,
    raw_weights: RawWeights = False,
    batch: Batch = None,
    device: Device = "auto",
) -> None:
    """Measure how likely real pictures are under a model, in bits per dimension: by the variational bound and by the probability-flow ODE."""
    from ..evaluation.pictures import real_pictures
    from ..evaluation.run_likelihood import Options, measure_likelihood
    from ..generation.pipeline import load
    from ..runs.checkpoint import find_checkpoint
    from ..storage import write_json
    from .watch import bars, console, reading_bar

    check_json(out)
    pipeline = load(run, checkpoint, raw_weights, device).with_settings(variance=variance)
    options = Options(steps_bound, steps_ode, probes, seed, batch)
    with reading_bar() as progress:
        real = real_pictures(find_checkpoint(run, checkpoint), data, split, n, seed, progress)
    for line in describe_real(real, pipeline.conditions):
        console.print(line, markup=False)
    totals = {"bound": len(real) * (steps_bound or pipeline.denoiser.schedule.steps or 0), "ode": len(real) * steps_ode}
    with bars() as progress:
        tasks = {what: progress.add_task(NAMES[what], total=total) for what, total in totals.items()}
        found = measure_likelihood(pipeline, real, options, lambda what, done: progress.advance(tasks[what], done))
    for line in table(found):
        console.print(line, markup=False)
    if out is not None:
        write_json(out, found.to_json())
        console.print(f"all of it in {out}", markup=False)


def check_json(out: Path | None) -> None:
    """Raise ConfigurationError, before any work is done, if the result cannot go to this path."""
    if out is not None and (
        out.suffix.lower() != ".json" or out.is_dir() or (out.parent.exists() and not out.parent.is_dir())
    ):
        raise ConfigurationError(f"--out takes the path of a .json file to write, got {out}")


def describe_real(real: RealPictures, conditions: list[str]) -> list[str]:
    """Which pictures are measured, and with which conditions, in lines."""
    channels, height, width = real.data.shape
    which = {"held-out": "held out from training", "training": "of training", "all": "in all"}[real.split]
    lines = [
        f"data    {real.source}: {len(real)} of the {real.total} pictures {which}, {height}x{width}, {channels} channel{'s' * (channels > 1)}"
    ]
    given = [name for name in conditions if name not in real.null]
    if conditions:
        null = f"; null, as the data has none: {', '.join(real.null)}" if real.null else ""
        lines.append(f"cond    {', '.join(given) or 'nothing'} of the data{null}")
    if real.skipped:
        lines.append(f"skipped {real.skipped} files that cannot be used")
    return lines


def table(found: Likelihood) -> list[str]:
    """Means with their standard errors, and what they are of."""
    record, lines = found.record, [f"{'bits per dimension':<22}{'mean':>8}  standard error"]
    of = {
        "bound": f"ancestral sampling, {record['bound_steps']} steps, variance {record['variance']}, clip {record['clip']}",
        "ode": f"{record['ode_steps']} steps, probes: {record['probes']}",
    }
    for name, (mean, error) in found.summary().items():
        told = "-" if error is None else f"{error:.4f}"
        lines.append(f"{NAMES[name]:<22}{mean:>8.4f}  ± {told:<8} {of.get(name, '')}".rstrip())
    lines.append(
        f"{record['pictures']} pictures, seed {record['seed']}, {record['weights']} weights of {record['checkpoint']} (model {record['model']})"
    )
    lines.append(
        "note: these are two models with the same network (the chain of sampling, the flow of the ODE); neither bounds the other"
    )
    return lines

"""How a likelihood is planned and measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...errors import ConfigurationError
from ...evaluation.pictures import RealPictures, real_pictures
from ...evaluation.run_likelihood import Likelihood, Options, measure_likelihood
from ...generation.pipeline import Pipeline, load
from ...runs.checkpoint import find_checkpoint
from ...storage import write_json
from ..events import Emit, Event, Progress, TaskResult
from ..job import Stop, follow
from ..likelihood import LikelihoodRequest

NAMES = {
    "bound": "variational bound",
    "prior": "  prior",
    "steps": "  steps",
    "decoder": "  decoder",
    "ode": "probability-flow ODE",
}


@dataclass(frozen=True)
class LikelihoodPlan:
    """A model, and the real pictures that are measured."""

    request: LikelihoodRequest
    pipeline: Pipeline
    real: RealPictures

    def lines(self) -> list[str]:
        """The pictures, and their conditions."""
        return describe_real(self.real, self.pipeline.conditions)


def plan(request: LikelihoodRequest, emit: Emit) -> LikelihoodPlan:
    """Load the model and read the pictures. Raises AlphabarError."""
    check_json(request.out)
    pipeline = load(request.run, request.checkpoint, request.raw_weights, request.device)
    pipeline = pipeline.with_settings(variance=request.variance)
    real = real_pictures(
        find_checkpoint(request.run, request.checkpoint), request.data, request.split, request.n, request.seed,
        lambda stage, done, total: emit(Progress(stage, done, total)),
    )  # fmt: skip
    return LikelihoodPlan(request, pipeline, real)


def run(plan: LikelihoodPlan, stop: Stop) -> Iterator[Event]:
    """Measure. A stop leaves nothing behind."""
    request, n = plan.request, len(plan.real)
    options = Options(request.steps_bound, request.steps_ode, request.probes, request.seed, request.batch)
    steps = request.steps_bound or plan.pipeline.denoiser.schedule.steps or 0
    totals, done = {"bound": n * steps, "ode": n * request.steps_ode}, dict.fromkeys(NAMES, 0)

    def work(emit: Emit) -> Likelihood:
        def on_progress(stage: str, count: int) -> None:
            done[stage] += count
            emit(Progress(NAMES[stage], done[stage], totals[stage]))

        return measure_likelihood(plan.pipeline, plan.real, options, on_progress)

    likelihood = yield from follow(work, stop)
    lines, data = table(likelihood), likelihood.to_json()
    if request.out is not None:
        write_json(request.out, data)
        lines.append(f"all of it in {request.out}")
    yield TaskResult(lines, data, [request.out] if request.out else [])


def check_json(out: Path | None) -> None:
    """Raise ConfigurationError, before any work is done, if the result cannot go to this path."""
    if out is not None and (
        out.suffix.lower() != ".json" or out.is_dir() or (out.parent.exists() and not out.parent.is_dir())
    ):
        raise ConfigurationError(f"--out takes the path of a .json file to write, got {out}")


def describe_real(real: RealPictures, conditions: list[str]) -> list[str]:
    """Which pictures are measured, and with which conditions, in lines."""
    channels, height, width = real.data.shape
    part = {"held-out": "held out from training", "training": "of training", "all": "in all"}[real.split]
    lines = [
        f"data    {real.source}: {len(real)} of the {real.total} pictures {part}, {height}x{width}, {channels} channel{'s' * (channels > 1)}"
    ]
    given = [name for name in conditions if name not in real.null]
    if conditions:
        null = f"; null, as the data has none: {', '.join(real.null)}" if real.null else ""
        lines.append(f"cond    {', '.join(given) or 'nothing'} of the data{null}")
    if real.skipped:
        lines.append(f"skipped {real.skipped} files that cannot be used")
    return lines


def table(likelihood: Likelihood) -> list[str]:
    """Means with their standard errors, and what they are of."""
    record, lines = likelihood.record, [f"{'bits per dimension':<22}{'mean':>8}  standard error"]
    models = {
        "bound": f"ancestral sampling, {record['bound_steps']} steps, variance {record['variance']}, clip {record['clip']}",
        "ode": f"{record['ode_steps']} steps, probes: {record['probes']}",
    }
    for name, (mean, error) in likelihood.summary().items():
        shown = "-" if error is None else f"{error:.4f}"
        lines.append(f"{NAMES[name]:<22}{mean:>8.4f}  ± {shown:<8} {models.get(name, '')}".rstrip())
    lines.append(
        f"{record['pictures']} pictures, seed {record['seed']}, {record['weights']} weights of {record['checkpoint']} (model {record['model']})"
    )
    lines.append(
        "note: these are two models with the same network (the chain of sampling, the flow of the ODE); neither bounds the other"
    )
    return lines

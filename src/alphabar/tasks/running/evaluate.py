"""How an evaluation is planned and carried out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import ConfigurationError, DataError
from ...evaluation.extractors import Extractor, pick_extractor
from ...evaluation.quality import FEWEST, RealSets, choose_real
from ...evaluation.report import table_rows, write_report
from ...evaluation.run_evaluation import Evaluation, Judged, asked_of, pictures_of, real_like, real_of_run, samples_of
from ...evaluation.run_evaluation import evaluate as measure
from ...generation.pipeline import Pipeline, load
from ...runs.checkpoint import find_checkpoint
from ...storage import write_json, write_text
from ..evaluate import EvaluateRequest
from ..events import Emit, Event, Progress, TaskResult
from ..job import Stop, follow
from .frames import step_counter


@dataclass(frozen=True)
class EvaluatePlan:
    """The real pictures, and what is measured against them: a model, or pictures that are there already.

    fewer: the model with other numbers of steps. source: what the real pictures are.
    """

    request: EvaluateRequest
    folder: Path
    extractor: Extractor
    real: RealSets
    source: str
    pipeline: Pipeline | None = None
    fewer: dict[int, Pipeline] = field(default_factory=dict)
    pictures: Judged | None = None

    def lines(self) -> list[str]:
        """The real pictures, and what a reader of the numbers must know."""
        lines, request, n = list[str](), self.request, len(self.real.reference)
        if self.pipeline is not None:
            lines.append(f"data    {self.source}: {n} pictures, and {len(self.real.floor)} others for the floor")
            lines += [f"note: {self.real.note}"] if self.real.note else []
        if self.pictures is not None and (skipped := self.pictures.record.get("skipped")):
            lines.append(f"note: {skipped} unreadable files of {request.what} were skipped")
        if n < request.n:
            lines.append(f"note: {n} pictures on each side, as there are no more; -n asks for {request.n}")
        return lines


def plan(request: EvaluateRequest, emit: Emit) -> EvaluatePlan:
    """Read the real pictures, and the model or the pictures to be measured. Raises AlphabarError."""
    if not request.what.exists():
        raise ConfigurationError(
            f"{request.what} does not exist; give a run folder, a folder of pictures, or a .npy or .npz file"
        )
    is_run = run_of(request.what) is not None
    folder = request.out or (request.what if is_run else beside(request.what))
    check_folder(folder)
    extractor = pick_extractor(request.extractor, request.inception)
    return (plan_run if is_run else plan_pictures)(request, folder, extractor, emit)


def plan_pictures(request: EvaluateRequest, folder: Path, extractor: Extractor, emit: Emit) -> EvaluatePlan:
    """Pictures that are there already beside real ones."""
    check_of_pictures(request)
    what, source = request.what, str(request.data)

    def progress(stage: str, done: int, total: int) -> None:
        emit(Progress(stage, done, total))

    judged = pictures_of(what, progress)
    if len(judged.pictures) < FEWEST:
        raise DataError(
            f"{what} holds {len(judged.pictures)} pictures, too few to measure; at least {FEWEST} are needed"
        )
    real = real_like(source, judged.pictures, progress)
    training = None if request.training is None else real_like(request.training, judged.pictures, progress)
    sets = choose_real(real, training, extractor, min(request.n, len(judged.pictures)), request.seed)
    return EvaluatePlan(request, folder, extractor, sets, source, pictures=judged)


def plan_run(request: EvaluateRequest, folder: Path, extractor: Extractor, emit: Emit) -> EvaluatePlan:
    """A model beside real pictures."""
    if request.training is not None:
        raise ConfigurationError("--training is for pictures without a run; a run knows what it was trained on")
    counts = read_steps(request.by_steps)
    pipeline = load(request.what, request.checkpoint, request.raw_weights, request.device)
    pipeline = pipeline.with_settings(sampler=request.sampler, steps=request.steps, guidance=request.guidance)
    fewer = {steps: pipeline.with_settings(steps=steps) for steps in counts}
    for each in (pipeline, *fewer.values()):
        each.times()  # what cannot be sampled is said now, not after hours
    real, source = real_of_run(
        find_checkpoint(request.what, request.checkpoint), request.data, request.split, extractor, request.n, request.seed,
        lambda stage, done, total: emit(Progress(stage, done, total)),
    )  # fmt: skip
    return EvaluatePlan(request, folder, extractor, real, source, pipeline, fewer)


def run(plan: EvaluatePlan, stop: Stop) -> Iterator[Event]:
    """Make samples, measure, write the report. A stop leaves nothing behind."""
    judged, others = plan.pictures, {}
    if plan.pipeline is not None:
        judged = yield from follow(lambda emit: make_samples(plan, plan.pipeline, emit), stop)
        for steps, pipeline in plan.fewer.items():
            samples = yield from follow(lambda emit, pipeline=pipeline: make_samples(plan, pipeline, emit), stop)  # type: ignore[misc]
            others[steps] = samples.pictures
    total, done = len(plan.real.reference) * (3 + len(others)), 0

    def compare(emit: Emit) -> Evaluation:
        def on_pictures(n: int) -> None:
            nonlocal done
            done += n
            emit(Progress("features", done, total))

        return measure(judged, plan.real, plan.extractor, plan.source, plan.request.seed, others, on_pictures)  # type: ignore[arg-type]

    evaluation = yield from follow(compare, stop)
    yield write_result(plan, evaluation)


def write_result(plan: EvaluatePlan, evaluation: Evaluation) -> TaskResult:
    """evaluation.json and report.html in the folder."""
    what, report = plan.request.what, plan.folder / "report.html"
    data = evaluation.to_json()
    write_json(plan.folder / "evaluation.json", data)
    write_text(report, write_report(evaluation, f"Evaluation of {what.name}", run_of(what)))
    lines = [*table(evaluation), f"all of it in {report} and evaluation.json beside it"]
    return TaskResult(lines, data, [report, plan.folder / "evaluation.json"])


def make_samples(plan: EvaluatePlan, pipeline: Pipeline | None, emit: Emit) -> Judged:
    """As many samples as real pictures."""
    assert pipeline is not None
    request = plan.request
    inputs = asked_of(pipeline, plan.real.reference, request.seed)
    batch = request.batch or pipeline.fitting_batch(inputs)
    on_state = step_counter(emit, -(-len(inputs) // batch), pipeline.steps)
    return samples_of(pipeline, inputs, request.seed, batch, on_state)


def check_folder(folder: Path) -> None:
    """Raise ConfigurationError if a file is where the folder of the report would be."""
    for each in (folder, *folder.parents):
        if each.exists() and not each.is_dir():
            raise ConfigurationError(f"--out takes a folder for report.html and evaluation.json, got the file {each}")


def run_of(path: Path) -> Path | None:
    """The path if it is a run or a checkpoint."""
    return path if any((path / name).exists() for name in ("run.json", "checkpoint.json")) else None


def check_of_pictures(request: EvaluateRequest) -> None:
    """Raise ConfigurationError for options that only a run can follow, and for missing real pictures."""
    for name in ("split", "sampler", "steps", "guidance", "by_steps"):
        if getattr(request, name) is not None:
            flag = name.replace("_", "-")
            raise ConfigurationError(f"--{flag} is for a run; these pictures are made already, leave it out")
    if request.data is None:
        raise ConfigurationError(
            "name the real pictures to compare with: --data FOLDER, a .npz or .npy file, or a built-in set"
        )


def beside(what: Path) -> Path:
    """Where the evaluation of pictures goes: NAME-evaluation, without the end of a file's name unless a folder is called so."""
    shared = what.is_dir() or what.with_suffix("").is_dir()
    return what.with_name(f"{what.name if shared else what.stem}-evaluation")


def read_steps(text: str | None) -> list[int]:
    """'5,10' -> [5, 10]. Raises ConfigurationError."""
    words = [] if text is None else [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and word.isascii() and int(word) for word in words):
        raise ConfigurationError(f"--by-steps takes numbers of steps, like 5,10,20; got {text!r}")
    return [int(word) for word in words]


def table(evaluation: Evaluation) -> list[str]:
    """The numbers of the samples beside those of real pictures."""
    record, rows = evaluation.record, table_rows(evaluation)
    sides = f"{record['n']} pictures on each side, extractor {record['extractor']} ({record['extractor_hash']})"
    sampler = f", {record['sampler']} in {record['steps']} steps" if "sampler" in record else ""
    head = f"{'':<24}{'samples':>18}{'real':>18}"
    lines = [f"{name:<24}{value:>18}{floor:>18}" for name, value, floor, _ in rows]
    by_steps = [
        f"{f'kernel x 1000, {steps} steps':<24}{f'{1000 * of.kernel:.2f} ± {1000 * of.kernel_error:.2f}':>18}"
        for steps, of in sorted(evaluation.by_steps.items())
    ]
    return [sides + sampler, head, *lines, *by_steps]

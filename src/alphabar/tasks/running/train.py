"""How a training request is planned and carried out."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from ...data.found import DataReport
from ...training.data import remove_cache
from ...training.session import Session, prepare
from ..events import Emit, Event, Metrics, Preview, Progress, TaskResult
from ..job import Stop
from ..train import TrainRequest
from ..words import duration

SHOWN = 10
EXAMPLES = {"text": '--prompt "..."', "map": "--map FILE", "image": "--image FILE"}


@dataclass(frozen=True)
class TrainPlan:
    """A session that is ready to run."""

    request: TrainRequest
    session: Session

    def lines(self) -> list[str]:
        """The report on the data, the model, and the plan of the training."""
        return session_lines(self.session)


def plan(request: TrainRequest, emit: Emit) -> TrainPlan:
    """Read the data, settle every setting, measure the speed. Raises AlphabarError."""
    session = prepare(
        request.data, request.out, preset=request.preset, steps=request.steps, minutes=request.minutes, settings=request.overrides(),
        config=request.config, resume=request.resume, init=request.init, accept_changed_data=request.accept_changed_data,
        progress=lambda stage, done, total: emit(Progress(stage, done, total)), command=request.command_line(),
    )  # fmt: skip
    return TrainPlan(request, session)


def run(plan: TrainPlan, stop: Stop) -> Iterator[Event]:
    """Train. A stop ends after the step at hand, with a checkpoint."""
    request, session = plan.request, plan.session
    if request.dry_run:
        if not request.resume:
            remove_cache(request.out)
        yield TaskResult(["dry run: nothing was trained or written"])
        return
    yield from training_events(session, stop)
    steps = session.trainer.steps_done
    data = {"steps": steps, "stopped": session.stopped_early}
    yield TaskResult(next_lines(request, session), data, [request.out] if steps else [])


def training_events(session: Session, stop: Stop) -> Iterator[Event]:
    """The metrics of each step, and each preview when it is written."""
    stop.listen(session.request_stop)
    newest, previews = None, session.out / "previews"
    for report in session.run():
        record = session.recorder.last if session.recorder else None
        yield Metrics(report.step, report.steps, report.loss, record if record and record is not newest else None)
        newest = record
        for step in (0, report.step) if report.step == 1 else (report.step,):
            if (path := previews / f"step-{step}.png").exists():
                yield Preview(path)


def session_lines(session: Session) -> list[str]:
    """A session before it starts: its data, its model, its length."""
    plan, train = session.plan, session.config.train
    lines = [] if session.report is None else report_lines(session.report, session.config.data.class_from)
    lines.append(
        f"model   preset {session.config.preset}, {plan.parameters / 1e6:.2f} M parameters; {plan.device}, {plan.precision}, {plan.threads} threads"
    )
    if session.origin is not None:
        fresh = f"; new: {', '.join(session.fresh)}" if session.fresh else ""
        lines.append(f"init    averaged weights of {session.origin.path}{fresh}")
    lines += [f"note    {note}" for note in session.notes]
    start = f"from step {plan.first_step} " if plan.first_step else ""
    lines.append(
        f"plan    {start}to step {plan.steps} of {train.batch_size} pictures ({plan.epochs:.1f} epochs), about {duration(plan.seconds)}"
    )
    return lines


def report_lines(report: DataReport, class_from: str) -> list[str]:
    """The report on the data in lines."""
    channels, height, width = report.shape
    modes = ", ".join(f"{n} {mode}" for mode, n in report.modes.items())
    lines = [
        f"data    {report.source}: {report.count} pictures, {report.sizes} pixels ({modes})",
        f"shape   each becomes {height}x{width}, {channels} channel{'s' * (channels > 1)}; {len(report.held_out)} held out",
        *class_lines(report, class_from),
    ]
    lines += [f"cond    {name}: {origin}" for name, origin in report.conditions.items()]
    lines += [f"found   {offer}, not used" for offer in report.unused]
    if report.animated:
        lines.append(f"note    {report.animated} animated, of which the first frame is taken")
    if report.enlarged:
        lines.append(f"note    {report.enlarged} smaller than {height}x{width} and enlarged")
    if report.other_files:
        lines.append(f"note    {report.other_files} files that are no pictures passed over")
    lines += [f"skipped {name}: {reason}" for name, reason in report.skipped[:SHOWN]]
    if len(report.skipped) > SHOWN:
        lines.append(f"skipped {len(report.skipped) - SHOWN} more, listed in data.json")
    if report.near_duplicates:
        shown = [f"{a} = {b}" for a, b in report.near_duplicates[:3]]
        lines.append(
            f"note    {len(report.near_duplicates)} pairs of near-duplicates ({', '.join(shown)}{' ...' if len(report.near_duplicates) > 3 else ''})"
        )
    return lines


def class_lines(report: DataReport, class_from: str) -> list[str]:
    """The classes with their numbers of pictures, or why there are none."""
    if report.classes:
        shown = [f"{name} ({n})" for name, n in list(report.classes.items())[:20]]
        return [f"classes {len(report.classes)}: {', '.join(shown)}{' ...' if len(report.classes) > 20 else ''}"]
    if report.folders > 1:
        return [
            f"classes none; the pictures lie in {report.folders} sub-folders: --class-from folder would make them classes"
        ]
    unconditional = class_from == "none" and not report.conditions
    return ["classes none: the model is unconditional"] if unconditional else []


def next_lines(request: TrainRequest, session: Session) -> list[str]:
    """How the training ended, and the command to go on with."""
    run, steps = shlex.quote(str(request.out)), session.trainer.steps_done
    if session.stopped_early and not steps:
        return [f"stopped before the first step, so there is nothing to go on with; remove {run} to start anew"]
    if session.stopped_early:
        source = f"{shlex.quote(request.data)} " if request.data else ""
        return [f"stopped at step {steps}, saved; go on with: alphabar train {source}--out {run} --resume"]
    inputs = "".join(f" {example}" for name, example in EXAMPLES.items() if name in session.config.conditions)
    return [
        f"done: {steps} steps in {request.out}; look at previews/filmstrip.png and loss.png there",
        f"next: alphabar sample {run}{inputs or ' -n 64'} --out samples.png",
    ]

"""How the demo is planned and carried out: from nothing to new digits in a few minutes on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from ...generation.images import save_animation
from ...generation.pipeline import load
from ...randomness import derive_seeds
from ...training.session import Session, prepare
from ..demo import DemoRequest
from ..events import Emit, Event, TaskResult
from ..job import Stop, Stopped, follow
from .frames import Frames, step_counter
from .train import session_lines, training_events

MINUTES, FULL_STEPS, SAMPLING_STEPS = 2.0, 1500, 100
RECIPE = {"train.batch_size": 64, "train.rate": "cosine"}
GRID, ANIMATED = 100, 20


@dataclass(frozen=True)
class DemoPlan:
    """A session on the digits that is ready to run."""

    request: DemoRequest
    out: Path
    session: Session

    def lines(self) -> list[str]:
        """The data, the model and the plan of the training."""
        return session_lines(self.session)


def plan(request: DemoRequest, emit: Emit) -> DemoPlan:
    """Choose the folder and the number of steps. Raises CheckpointError if the folder is a run already."""
    out = request.out or first_free(Path("runs/demo"))
    return DemoPlan(request, out, prepare_demo(out, request.steps, request.command_line()))


def run(plan: DemoPlan, stop: Stop) -> Iterator[Event]:
    """Train, then make new digits. A stop during the training saves a checkpoint."""
    yield from training_events(plan.session, stop)
    out, session = plan.out, plan.session
    data = {"steps": session.trainer.steps_done, "stopped": session.stopped_early}
    if session.stopped_early:
        line = f"stopped at step {session.trainer.steps_done}; go on with: alphabar train --out {out} --resume"
        yield TaskResult([line], data, [out])
        return
    try:
        yield from follow(lambda emit: make_pictures(out, emit), stop)
    except Stopped:
        yield TaskResult([f"stopped before its pictures were made; the training is saved in {out}"], data, [out])
        return
    yield TaskResult(ending(out), data, [out])


def first_free(path: Path) -> Path:
    """The path, or path-2, path-3, ..., whichever does not exist yet."""
    numbered = (path if n == 1 else path.with_name(f"{path.name}-{n}") for n in count(1))
    return next(candidate for candidate in numbered if not candidate.exists())


def prepare_demo(out: Path, steps: int | None, command: str = "") -> Session:
    """A session on the digits: the given steps, or the full number if it fits into the time."""
    minutes = None if steps else MINUTES
    session = prepare("digits", out, preset="tiny", steps=steps, minutes=minutes, settings=RECIPE, command=command)
    if steps is None and session.plan.steps > FULL_STEPS:
        session.trainer.plan_steps(FULL_STEPS)
    return session


def make_pictures(out: Path, emit: Emit) -> None:
    """samples.png and denoising.webp from the finished run."""
    pipeline = load(out).with_settings(steps=SAMPLING_STEPS)
    on_state = step_counter(emit, 1, pipeline.steps)
    pipeline.sample(GRID, on_state=on_state).save(out / "samples.png")
    frames = Frames()
    for state in pipeline.states(derive_seeds(1, ANIMATED), pipeline.ask(ANIMATED, {})):
        frames.see(state)
    save_animation(out / "denoising.webp", frames.grids)


def ending(out: Path) -> list[str]:
    """Where the pictures are, and what to try next."""
    return [
        f"\nYour new digits: {out / 'samples.png'}",
        f"Their way from noise: {out / 'denoising.webp'}; while training: {out / 'previews' / 'filmstrip.png'}",
        f"The data: {out / 'data-preview.png'}; the loss: {out / 'loss.png'}\n\nNext, try:",
        f"  alphabar sample {out} -n 64 --class 7 --out sevens.png",
        f"  alphabar info {out}",
        "  alphabar train FOLDER-OF-YOUR-PICTURES --out runs/mine --minutes 30",
    ]

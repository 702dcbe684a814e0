"""What a person sees while something runs: live lines and bars on a terminal, plain lines in a log."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from ..samplers.base import SampleState
    from ..training.session import Session

console = Console(highlight=False, soft_wrap=True)

MOST_FRAMES = 60


class Frames:
    """Grids of a batch's x_t on its way, every few steps, at most 60 of them; the last one is the result as `finish` makes it.

    columns: of the grids; default: about as many as rows.
    """

    def __init__(self, columns: int | None = None) -> None:
        self.columns, self.grids = columns, list["np.ndarray"]()

    def see(self, state: SampleState, finish: Callable[[Tensor], np.ndarray] | None = None) -> None:
        """Take the next state; finish: what becomes of the last x_t, as uint8 (N, H, W, C), if more than rounding."""
        from ..data.pictures import to_uint8
        from ..generation.images import grid

        left, stride = state.steps - state.step, -(-state.steps // MOST_FRAMES)
        if left % stride == 0:
            pictures = (finish or to_uint8)(state.x_t) if left == 0 else to_uint8(state.x_t)
            self.grids.append(grid(pictures, self.columns))


def bars(*columns: str) -> Progress:
    """Progress bars with time left; nothing is drawn where the output is not a terminal."""
    texts = [TextColumn(column) for column in columns]
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *texts, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
        console=console, disable=not console.is_terminal,
    )  # fmt: skip


@contextlib.contextmanager
def reading_bar() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for reading data: the callback takes what is done, how many are, and of how many."""
    with bars() as progress:
        tasks: dict[str, TaskID] = {}

        def update(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], completed=done)

        yield update


@contextlib.contextmanager
def sampling_bar(batches: int, steps: int) -> Iterator[Callable[[SampleState], None]]:
    """A bar over all reverse steps of all batches."""
    with bars() as progress:
        task = progress.add_task("sampling", total=batches * steps)

        def update(state: SampleState) -> None:
            if state.step:
                progress.advance(task)

        yield update


@contextlib.contextmanager
def stopping(session: Session) -> Iterator[None]:
    """Ctrl-C and SIGTERM ask the session to save and stop after the step at hand; a second one ends at once."""

    def ask(number: int, frame: Any) -> None:
        console.print("stopping after this step and saving ...")
        session.request_stop()
        signal.signal(number, signal.default_int_handler)

    old = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def watch(session: Session) -> None:
    """Run a session with a live line; in a log, a plain line a report."""
    plan = session.plan
    with stopping(session), bars("loss {task.fields[loss]}", "{task.fields[speed]} images/s") as progress:
        task = progress.add_task("training", total=plan.steps, completed=plan.first_step, loss="-", speed="-")
        shown: dict[str, Any] = {}
        for report in session.run():
            row = session.recorder.last if session.recorder else {}
            speed = f"{row['images_per_second']:.0f}" if row else "-"
            progress.update(task, completed=report.step, loss=f"{report.loss:.4f}", speed=speed)
            if row and row is not shown:
                shown = row
                _log(report.step, plan.steps, row)


def _log(step: int, steps: int, row: dict[str, Any]) -> None:
    if console.is_terminal:
        return
    held = "" if row["validation_loss"] is None else f"  held out {row['validation_loss']:.4f}"
    left = (steps - step) / max(row["steps_per_second"], 1e-9)
    print(
        f"step {step}/{steps}  loss {row['loss']:.4f}{held}  {row['images_per_second']:.0f} images/s  {duration(left)} left",
        flush=True,
    )


def counted(n: int, thing: str) -> str:
    """'1 picture', '2 pictures'."""
    return f"{n} {thing}" + "s" * (n != 1)


def duration(seconds: float) -> str:
    """Seconds as a person says it: 45 s, 3 min, 2 h 5 min, 3 days."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"
    return f"{seconds / 86400:.1f} days"

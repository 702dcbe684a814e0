"""What a person sees of a task: live bars on a terminal, plain lines in a log."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import typer

from ..machine import give_back_freed_memory, keep_freed_memory
from ..tasks import job as jobs
from ..tasks.base import Request
from ..tasks.events import Event, Metrics, Note, Progress
from ..tasks.registry import TASKS
from ..tasks.words import duration

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

INTERRUPTED = 130
"""The exit code of a command that ended by Ctrl-C without a result."""


def show(request: Request) -> None:
    """Carry out a request: its plan, its events, its result. Ctrl-C and SIGTERM end it soon."""
    saves = TASKS[request.name].saves
    if saves:  # a training: a library must not change how its process allocates, a command may
        keep_freed_memory()
    with Screen() as screen:
        job = jobs.start(request, screen.take)
        if saves:
            give_back_freed_memory()  # that of reading data
        screen.clear()
        for line in job.plan.lines():
            screen.say(line)
        with stopping(job, screen):
            for event in job:
                screen.take(event)
    if job.result is None:
        print("stopped; nothing was written")
        raise typer.Exit(INTERRUPTED)
    for line in job.result.lines:
        print(line)


@contextlib.contextmanager
def stopping(job: jobs.Job, screen: Screen) -> Iterator[None]:
    """Ctrl-C and SIGTERM ask the job to stop; a second one ends at once."""

    def handle(number: int, frame: Any) -> None:
        saves = TASKS[job.request.name].saves
        screen.say("stopping after this step and saving ..." if saves else "stopping ...")
        job.stop()
        signal.signal(number, signal.default_int_handler)

    old = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


class Screen:
    """Shows events; bars appear with the first progress, where the output is a terminal."""

    def __init__(self) -> None:
        self.live = sys.stdout.isatty()
        self._bars: Bars | None = None
        self._tasks: dict[str, TaskID] = {}
        self._speed = "-"

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *error: object) -> None:
        self.clear()

    def take(self, event: Event) -> None:
        """Show an event."""
        match event:
            case Note(text):
                self.say(text)
            case Progress(stage, done, total):
                self._bar(stage, done, total)
            case Metrics():
                self._metrics(event)

    def say(self, line: str) -> None:
        """Print a line, above the bars if there are some."""
        if self._bars is None:
            print(line, flush=True)
        else:
            from rich.text import Text

            self._bars.console.print(Text(line), soft_wrap=True)

    def clear(self) -> None:
        """End the bars."""
        if self._bars is not None:
            self._bars.stop()
        self._bars, self._tasks = None, {}

    def _bar(self, stage: str, done: int, total: int | None, detail: str = "") -> None:
        if not self.live:
            return
        if self._bars is None:
            self._bars = bars()
            self._bars.start()
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=total, detail="")
        self._bars.update(self._tasks[stage], completed=done, total=total, detail=detail)

    def _metrics(self, event: Metrics) -> None:
        record = event.record
        if record is not None:
            self._speed = f"{record['images_per_second']:.0f}"
        self._bar("training", event.step, event.steps, f"loss {event.loss:.4f} {self._speed} images/s")
        if record is None or self.live:
            return
        held_out = "" if record["validation_loss"] is None else f"  held out {record['validation_loss']:.4f}"
        left = duration((event.steps - event.step) / max(record["steps_per_second"], 1e-9))
        speed = f"{self._speed} images/s"
        print(f"step {event.step}/{event.steps}  loss {record['loss']:.4f}{held_out}  {speed}  {left} left", flush=True)


def bars() -> Bars:
    """Progress bars with the time left."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    return Bars(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[detail]}"), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip

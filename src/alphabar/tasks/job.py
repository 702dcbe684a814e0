"""A task at work: its plan, its events, and the request to stop."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Generator
from typing import TypeVar

from ..plugins import load_plugin
from .base import Plan, Request
from .events import Emit, Event, TaskResult
from .registry import task_named

T = TypeVar("T")
LONGEST_END = 1.0
"""Seconds that a closed generator waits for its work, which ends at its next event."""
LONGEST_WAIT = 0.1
"""Seconds after which work that waits for its events to be taken looks whether they still will be."""


class Stopped(Exception):
    """Raised inside work that was asked to stop."""


class Stop:
    """The request to stop, from any thread."""

    def __init__(self) -> None:
        self._lock, self._requested = threading.RLock(), False  # a signal may arrive in between
        self._listeners: list[Callable[[], None]] = []

    def request(self) -> None:
        """Ask the task to end soon."""
        with self._lock:
            listeners = [] if self._requested else self._listeners
            self._requested = True
        for listener in listeners:
            listener()

    @property
    def requested(self) -> bool:
        """Whether the task should end."""
        return self._requested

    def listen(self, listener: Callable[[], None]) -> None:
        """Call a function when the task should end; at once if it should already."""
        with self._lock:
            self._listeners.append(listener)
            late = self._requested
        if late:
            listener()

    def check(self) -> None:
        """Raise Stopped if the task should end."""
        if self._requested:
            raise Stopped


class Job:
    """An iterator over the events of a task. `plan` says what happens, `result` is there at the end, None if it was stopped before.

    `stop()` may be called from any thread: the task ends soon, and saves what it saves (`train` its checkpoint). `close()` ends it at once.
    """

    def __init__(self, request: Request, on_event: Emit | None = None) -> None:
        task = task_named(request.name)
        self.request = request
        for file in getattr(request, "plugin", ()):
            load_plugin(file)
        self.plan: Plan = task.plan(request, on_event or (lambda event: None))
        self.result: TaskResult | None = None
        self._stop = Stop()
        self._events = task.run(self.plan, self._stop)

    def __iter__(self) -> Job:
        return self

    def __next__(self) -> Event:
        try:
            event = next(self._events)
        except Stopped:
            raise StopIteration from None
        if isinstance(event, TaskResult):
            self.result = event
        return event

    def stop(self) -> None:
        """End soon; from any thread, at any time."""
        self._stop.request()

    @property
    def stopping(self) -> bool:
        """Whether the task was asked to stop."""
        return self._stop.requested

    def close(self) -> None:
        """End now, as leaving a generator does."""
        if isinstance(self._events, Generator):
            self._events.close()


def start(request: Request, on_event: Emit | None = None) -> Job:
    """Check a request into a plan; iterate the job to carry it out.

        job = tasks.start(tasks.SampleRequest(run="runs/mine", out="x.png", n=4))
        for event in job:
            print(event)
        print(job.result.data)

    on_event: takes the progress of planning, such as reading data. Raises AlphabarError where the request cannot be carried out.
    """
    return Job(request, on_event)


def run(request: Request, on_event: Emit | None = None) -> TaskResult:
    """Carry out a request to its end. on_event: takes all events, those of planning too. Raises AlphabarError."""
    job = start(request, on_event)
    for event in job:
        if on_event is not None:
            on_event(event)
    assert job.result is not None  # nobody else has this job, so nobody stopped it
    return job.result


def follow(work: Callable[[Emit], T], stop: Stop) -> Generator[Event, None, T]:
    """The events of work that reports through a callback, as it happens; the generator returns what the work returns.

    The work runs in a thread of its own, at most one event ahead. Its callback raises Stopped once the task should end or the generator
    is closed.
    """
    events = queue.Queue[Event | None](maxsize=1)
    closed = Stop()
    outcome: list[T] = []
    errors: list[BaseException] = []

    def emit(event: Event) -> None:
        stop.check()
        _put(events, event, closed)

    def target() -> None:
        try:
            outcome.append(work(emit))
        except BaseException as error:
            errors.append(error)
        with contextlib.suppress(Stopped):
            _put(events, None, closed)

    thread = threading.Thread(target=target, name="alphabar task", daemon=True)
    thread.start()
    try:
        while (event := events.get()) is not None:
            yield event
    finally:
        closed.request()
        thread.join(LONGEST_END)
    if errors:
        raise errors[0]
    return outcome[0]


def _put(events: queue.Queue[Event | None], event: Event | None, closed: Stop) -> None:
    while True:
        closed.check()
        with contextlib.suppress(queue.Full):
            return events.put(event, timeout=LONGEST_WAIT)

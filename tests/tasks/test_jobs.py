"""Jobs: from a request over its plan and its events to the result; stopped from outside, from another thread, or left."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest
from PIL import Image

from alphabar import tasks
from alphabar.errors import CheckpointError, ConfigurationError, DataError
from alphabar.runs.checkpoint import is_whole
from alphabar.runs.folder import RunFolder
from alphabar.tasks import Metrics, Note, Preview, Progress, SampleRequest, TaskResult, TrainRequest
from alphabar.tasks.job import Stop, Stopped, follow

from .conftest import TINY


def test_sampling_reports_each_step_and_ends_with_a_result(run, tmp_path):
    out = tmp_path / "x.npy"
    job = tasks.start(SampleRequest(run=run, out=out, n=4, steps=3, batch=2, label="7"))
    assert job.plan.request.n == 4
    assert not out.exists()  # a plan does nothing
    *events, result = job
    done = [(event.done, event.total) for event in events if isinstance(event, Progress)]
    assert done[-1] == (6, 6)
    assert done == sorted(done)
    assert result is job.result
    assert (result.data["pictures"], result.files) == (4, [out])
    assert "4 pictures in" in result.lines[0]
    json.dumps(result.data)
    assert np.load(out).shape == (4, 8, 8, 1)


def test_the_plan_tells_what_is_not_given(run, tmp_path):
    job = tasks.start(SampleRequest(run=run, out=tmp_path / "x.npy", n=1, steps=2, guidance=1, label="3"))
    assert job.plan.lines() == []
    with pytest.raises(ConfigurationError, match="not trained with text"):
        tasks.start(SampleRequest(run=run, out=tmp_path / "x.npy", prompt=["a cat"]))
    with pytest.raises(CheckpointError, match="does not exist"):
        tasks.start(SampleRequest(run=tmp_path / "none", out=tmp_path / "x.npy"))


@pytest.mark.parametrize("out", ["x.npy", "x.png", "x.webp", "folder"])
def test_a_stopped_sampling_leaves_nothing(run, tmp_path, out):
    job = tasks.start(SampleRequest(run=run, out=tmp_path / out, n=4, steps=20))
    events = []
    for event in job:
        events.append(event)
        job.stop()
    assert job.stopping
    assert job.result is None
    assert not any(isinstance(event, TaskResult) for event in events)
    assert len(events) < 21
    assert list(tmp_path.iterdir()) == []


def test_a_job_that_is_closed_leaves_nothing(run, tmp_path):
    job = tasks.start(SampleRequest(run=run, out=tmp_path / "x.npy", n=4, steps=20))
    next(job)
    job.close()
    assert list(tmp_path.iterdir()) == []
    assert "alphabar task" not in [thread.name for thread in threading.enumerate()]


def test_training_reports_metrics_and_previews(tmp_path):
    job = tasks.start(TrainRequest(data="digits", out=tmp_path / "run", steps=4, settings=TINY))
    lines = job.plan.lines()
    assert lines[0].startswith("data    digits: ")
    assert "to step 4 of 8 pictures" in lines[-1]
    *events, result = job
    metrics = [event for event in events if isinstance(event, Metrics)]
    assert [event.step for event in metrics] == [1, 2, 3, 4]
    assert [event.step for event in metrics if event.record] == [2, 4]
    assert metrics[1].record["step"] == 2
    previews = [event.path.name for event in events if isinstance(event, Preview)]
    assert previews == ["step-0.png", "step-2.png", "step-4.png"]
    assert result.data == {"steps": 4, "stopped": False}
    assert result.lines[-1].startswith("next: alphabar sample ")


def test_planning_reports_what_it_reads(tmp_path):
    (tmp_path / "pictures").mkdir()
    for i in range(3):
        Image.fromarray(np.full((8, 8), 40 * i, np.uint8)).save(tmp_path / "pictures" / f"{i}.png")
    events: list[tasks.Event] = []
    request = TrainRequest(data=str(tmp_path / "pictures"), out=tmp_path / "out", steps=1, settings=TINY, dry_run=True)
    tasks.start(request, events.append)
    assert any(isinstance(event, Progress) and event.done == 3 for event in events)


def test_a_stopped_training_saves_and_goes_on(tmp_path):
    """A stop from another thread, then a resume."""
    out = tmp_path / "run"
    job = tasks.start(TrainRequest(data="digits", out=out, steps=100_000, settings=TINY))
    for event in job:
        if isinstance(event, Metrics) and event.step == 3:
            thread = threading.Thread(target=job.stop)
            thread.start()
            thread.join()
    (checkpoint,) = RunFolder.open(out).checkpoints()
    assert checkpoint.name == "step-3"
    assert is_whole(checkpoint)
    assert job.result.data == {"steps": 3, "stopped": True}
    assert f"alphabar train digits --out {out} --resume" in job.result.lines[0]
    assert tasks.run(TrainRequest(out=out, resume=True, steps=4)).data == {"steps": 4, "stopped": False}


def test_a_training_stopped_before_its_first_step_says_so(tmp_path):
    job = tasks.start(TrainRequest(data="digits", out=tmp_path / "run", steps=5, settings=TINY))
    job.stop()
    (result,) = job
    assert result.data == {"steps": 0, "stopped": True}
    assert "nothing to go on with" in result.lines[0]


def test_a_closed_training_saves(tmp_path):
    job = tasks.start(TrainRequest(data="digits", out=tmp_path / "run", steps=100, settings=TINY))
    while not (isinstance(event := next(job), Metrics) and event.step == 2):
        pass
    job.close()
    assert [path.name for path in RunFolder.open(tmp_path / "run").checkpoints()] == ["step-2"]


def test_a_dry_run_writes_nothing(tmp_path):
    result = tasks.run(TrainRequest(data="digits", out=tmp_path / "run", steps=1, settings=TINY, dry_run=True))
    assert result.lines == ["dry run: nothing was trained or written"]
    assert list(tmp_path.iterdir()) == []


def test_run_passes_all_events_on(run, tmp_path):
    events: list[tasks.Event] = []
    result = tasks.run(SampleRequest(run=run, out=tmp_path / "x.npy", n=1, steps=2), events.append)
    assert events[-1] is result
    assert {type(event) for event in events} <= {Progress, Note, TaskResult}


# --- work in a thread ---------------------------------------------------------------------------------------------------------


def test_events_of_work_arrive_while_it_runs():
    seen, arrived = [], threading.Event()

    def work(emit) -> str:
        emit(Note("first"))
        assert arrived.wait(10)  # the caller has the first event before the second one is made
        emit(Note("second"))
        return "outcome"

    def caller():
        outcome = yield from follow(work, Stop())
        seen.append(outcome)

    for event in caller():
        seen.append(event.text)
        arrived.set()
    assert seen == ["first", "second", "outcome"]


def test_work_waits_for_its_events_to_be_taken():
    made = []

    def work(emit) -> None:
        for i in range(100):
            made.append(i)
            emit(Note(str(i)))

    events = follow(work, Stop())
    for _ in range(3):
        next(events)
    events.close()
    assert len(made) <= 6


def test_an_error_of_the_work_is_raised_to_the_caller():
    def work(emit) -> None:
        emit(Note("before"))
        raise DataError("broken")

    events = follow(work, Stop())
    assert next(events) == Note("before")
    with pytest.raises(DataError, match="broken"):
        next(events)


def test_work_is_interrupted_at_its_next_event():
    stop, reached = Stop(), []

    def work(emit) -> None:
        for i in range(1000):
            emit(Note(str(i)))
            reached.append(i)
            if i == 4:
                stop.request()

    with pytest.raises(Stopped):
        list(follow(work, stop))
    assert reached == [0, 1, 2, 3, 4]


def test_a_listener_is_called_once_even_if_it_comes_late():
    stop, calls = Stop(), []
    stop.listen(lambda: calls.append("early"))
    stop.request()
    stop.request()
    stop.listen(lambda: calls.append("late"))
    assert calls == ["early", "late"]


def test_closing_does_not_wait_for_work_that_reports_nothing():
    begun, released = threading.Event(), threading.Event()

    def work(emit):
        emit(Progress("work", 1, 2))
        begun.set()
        released.wait()
        emit(Progress("work", 2, 2))

    events = follow(work, Stop())
    next(events)
    begun.wait()
    events.close()  # returns although the work still runs
    assert not released.is_set()
    released.set()


def test_a_stop_may_be_asked_for_while_a_stop_is_asked_for():
    """A signal arrives while the lock is held by the same thread."""
    stop = Stop()
    stop.listen(stop.request)
    with stop._lock:
        stop.request()
    assert stop.requested

"""Defects of averages, times, the training loop, resuming and run folders."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from alphabar.errors import NonFiniteError
from alphabar.randomness import normal

from ..seeding import Defects

DEFECTS = Defects()
EMA, TIMES, LOOP = "training/test_ema.py", "training/test_times.py", "training/test_loop.py"
LEARNED = "training/test_conditions.py"


@DEFECTS.seed("average that skips buffers", "EMA.update", EMA)
def _(original: Any) -> Any:
    @torch.no_grad()
    def update(self: Any, module: Any, step: int) -> None:
        skipped = [buffer.clone() for buffer in self.module.buffers()]
        original(self, module, step)
        for buffer, before in zip(self.module.buffers(), skipped, strict=True):
            buffer.copy_(before)

    return update


@DEFECTS.seed("average with its shares swapped", "ema_decay", EMA, "recursion")
def _(original: Any) -> Any:
    return lambda step, decay: 1 - original(step, decay)


@DEFECTS.seed("no warm-up of the average", "ema_decay", EMA)
def _(original: Any) -> Any:
    return lambda step, decay: decay


@DEFECTS.seed("the last step of the table never drawn", "to_grid", TIMES)
def _(original: Any) -> Any:
    return lambda u, schedule: original(u, schedule) - (1 / schedule.steps if schedule.steps else 0)


@DEFECTS.seed("one time for the whole batch", "Uniform.draw", TIMES)
def _(original: Any) -> Any:
    def draw(self: Any, n: int, seed: int, step: int) -> Any:
        t, weight = original(self, n, seed, step)
        return t[:1].expand(n), weight

    return draw


@DEFECTS.seed("importance without weights", "Importance.draw", TIMES)
def _(original: Any) -> Any:
    def draw(self: Any, n: int, seed: int, step: int) -> Any:
        t, weight = original(self, n, seed, step)
        return t, torch.ones_like(weight)

    return draw


@DEFECTS.seed("importance history not saved", "Importance.state_dict", LOOP, "resume_is_exact")
def _(original: Any) -> Any:
    return lambda self: {name: torch.zeros_like(history) for name, history in original(self).items()}


@DEFECTS.seed("noise from the global generator", "normal_rows", LOOP, "resume_is_exact")
def _(original: Any) -> Any:
    return lambda shape, keys: torch.randn(len(keys), *shape) if "noise" in keys[0] else original(shape, keys)


@DEFECTS.seed("noise of a batch instead of an item", "Chance.draw", "training/test_draw.py", "any_batch")
def _(original: Any) -> Any:
    def draw(self: Any, step: int) -> Any:
        return replace(original(self, step), eps=normal((self.n, *self.shape), self.seed, self.n, step))

    return draw


@DEFECTS.seed("data order that restarts at resume", "epoch_order", LOOP, "epoch")
def _(original: Any) -> Any:
    return lambda n, seed, epoch: original(n, seed, 0)


@DEFECTS.seed("accumulated parts not averaged", "Engine.backward", LOOP, "accumulation")
def _(original: Any) -> Any:
    return lambda self, objective, denoiser, batch, draw, n: original(self, objective, denoiser, batch, draw, len(draw))


@DEFECTS.seed("non-finite loss reaches the weights", "Trainer.step", LOOP, "non_finite")
def _(original: Any) -> Any:
    def step(self: Any) -> Any:
        try:
            return original(self)
        except NonFiniteError:
            self.updater.update(self.steps_done)
            raise

    return step


@DEFECTS.seed("optimizer state not restored", "as_saved", LOOP, "resume_is_exact")
def _(original: Any) -> Any:
    return lambda value, parameter: original(value if value.ndim == 0 else torch.zeros_like(value), parameter)


@DEFECTS.seed("a run goes on with other conditions", "same_condition", "training/test_resume.py", "another_run")
def _(original: Any) -> Any:
    return lambda name, saved, given: True


@DEFECTS.seed("two processes train one run", "training_lock", "runs/test_runs.py", "only_one")
def _(original: Any) -> Any:
    @contextlib.contextmanager
    def unlocked(path: Path) -> Iterator[None]:
        path.mkdir(parents=True, exist_ok=True)
        (path / ".lock").touch()
        yield

    return unlocked


@DEFECTS.seed("what is made differs by place in the batch", "Encoders.with_derived", LEARNED, "steps_draw_anew")
def _(original: Any) -> Any:
    return lambda self, batch, keys: original(self, batch, [(seed, place) for seed, _, place in keys])


@DEFECTS.seed("conditions dropped together", "Chance._hidden", LEARNED, "own_probability")
def _(original: Any) -> Any:
    return lambda self, name, probability, step: original(self, "any", probability, step)

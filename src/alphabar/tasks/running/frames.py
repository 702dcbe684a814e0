"""What is seen of a batch while it is sampled: frames of an animation, and the number of steps that are done."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

from ...data.pictures import to_uint8
from ...generation import images
from ...samplers.base import SampleState
from ..events import Emit, Progress

MOST_FRAMES = 60


class Frames:
    """Grids of a batch's x_t during sampling, every few steps, at most 60 of them; the last one is the result as `finish` makes it.

    columns: of the grids; default: about as many as rows.
    """

    def __init__(self, columns: int | None = None) -> None:
        self.columns, self.grids = columns, list["np.ndarray"]()

    def see(self, state: SampleState, finish: Callable[[Tensor], np.ndarray] | None = None) -> None:
        """Take the next state; finish: makes uint8 (N, H, W, C) of the last x_t, if more than rounding."""
        left, stride = state.steps - state.step, -(-state.steps // MOST_FRAMES)
        if left % stride == 0:
            pictures = (finish or to_uint8)(state.x_t) if left == 0 else to_uint8(state.x_t)
            self.grids.append(images.grid(pictures, self.columns))


def step_counter(emit: Emit, batches: int, steps: int) -> Callable[[SampleState], None]:
    """A callback for sampling that emits the progress over all steps of all batches."""
    done = 0

    def on_state(state: SampleState) -> None:
        nonlocal done
        done += 1 if state.step else 0
        emit(Progress("sampling", done, batches * steps))

    return on_state

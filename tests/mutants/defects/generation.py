"""Defects of editing and of fine-tuning: what is made from pictures, or from weights, that are there already."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import torch

from alphabar.diffusion.gaussian import expand
from alphabar.generation.editing import inversion_times
from alphabar.runs.checkpoint import Checkpoint

from ..seeding import Defects

DEFECTS = Defects()
EDITING, ORIGIN = "test_editing.py", "training/test_origin.py"

# editing


@DEFECTS.seed("one mask of a batch with nothing to fill", "inpaint", EDITING, "nothing_to_fill")
def _(original: Any) -> Any:
    def inpaint(*arguments, **named):
        with patch.object(torch.Tensor, "all", torch.Tensor.any):
            return original(*arguments, **named)

    return inpaint


@DEFECTS.seed("strength counted from the noise", "times_from", EDITING, "nearest")
def _(original: Any) -> Any:
    return lambda pipeline, strength: original(pipeline, max(1 - strength, 1e-9))


@DEFECTS.seed("slerp along the straight line", "slerp", EDITING, "slerp_keeps")
def _(original: Any) -> Any:
    return lambda first, second, share: first + expand(share, first) * (second - first)


@DEFECTS.seed("seeds begun where inversion ends", "decode", EDITING, "between_two_seeds")
def _(original: Any) -> Any:
    def decode(pipeline, noise, asked=None, times=None):
        return original(pipeline, noise, asked, inversion_times(pipeline))

    return decode


# fine-tuning


@DEFECTS.seed("fine-tuning from the raw weights", "take_weights", ORIGIN, "averaged_weights")
def _(original: Any) -> Any:
    tensors = Checkpoint.tensors

    def take_weights(denoiser, origin):
        with patch.object(Checkpoint, "tensors", lambda checkpoint, part: tensors(checkpoint, "model")):
            return original(denoiser, origin)

    return take_weights


@DEFECTS.seed("rows of other classes kept", "other_classes", ORIGIN, "other_classes")
def _(original: Any) -> Any:
    return lambda denoiser, origin: set()

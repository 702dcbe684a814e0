"""Settings of training. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ..errors import ConfigurationError
from .base import Settings

PrecisionName = Literal["auto", "float32", "bfloat16"]


class TrainSettings(Settings):
    """How long, how fast, and what is written down on the way."""

    steps: int | None = Field(None, ge=1, description="optimizer steps; default: as many as fit into train.minutes")
    minutes: float = Field(
        30.0, gt=0, description="time for the whole training, used to fix train.steps where that is not given"
    )
    batch_size: int = Field(128, ge=1, description="pictures of one optimizer step")
    accumulate: int = Field(1, ge=1, description="parts that the batch is worked through in, to save memory")
    optimizer: Literal["adamw", "muon"] = Field(
        "adamw",
        description="muon: steps of equal size in all directions for weights that are matrices, AdamW for the rest",
    )
    learning_rate: float = Field(2e-4, gt=0, description="of the optimizer, after the warm-up")
    rate: Literal["constant", "cosine"] = Field(
        "constant", description="constant after the warm-up, or a cosine down to 0 at the last step"
    )
    warm_up: int = Field(200, ge=0, description="optimizer steps over which the rate grows from 0")
    weight_decay: float = Field(0.0, ge=0, description="of the optimizer, decoupled")
    clip_norm: float = Field(1.0, gt=0, description="largest norm of the whole gradient")
    drop_all: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="with several conditions: probability that all are hidden together, beside the dropout of each",
    )
    ema_decay: float = Field(
        0.9999,
        ge=0,
        lt=1,
        description="decay of the weights' average; before it is reached the average spans about a ninth of the run so far",
    )
    report_every: int = Field(
        100, ge=1, description="steps between lines of metrics.jsonl, each with the validation loss"
    )
    validation_pictures: int = Field(256, ge=0, description="held-out pictures that the validation loss is taken on")
    preview_every: int | None = Field(
        None, ge=1, description="steps between samples from the same noise; default: a twelfth of the run"
    )
    preview_pictures: int = Field(10, ge=1, description="pictures in a preview")
    preview_steps: int = Field(50, ge=1, description="sampling steps of a preview")
    checkpoint_every: int = Field(1000, ge=1, description="steps between checkpoints")
    keep_checkpoints: int = Field(3, ge=1, description="how many checkpoints are kept, the newest ones")
    device: str = Field(
        "auto", description="cpu, cuda, cuda:1, mps, or auto: the best there is (alphabar is tested on the CPU)"
    )
    precision: PrecisionName = Field(
        "auto",
        description="of the network's products; all else is float32. auto: what a short measurement finds faster here",
    )
    kernels: Literal["auto", "native", "fused"] = Field(
        "auto",
        description="native: those of torch; fused: built at their first use (needs a C++ compiler), less time and memory. auto: as measured, for trainings of about a minute and more",
    )
    channels_last: bool = Field(
        True, description="memory format of convolutions; true is faster on most CPUs and on GPUs"
    )
    threads: int | None = Field(
        None, ge=1, description="CPU threads; default: what torch finds. Kept on resume, since results depend on it"
    )
    tensorboard: bool = Field(False, description="also write TensorBoard events (pip install 'alphabar[tensorboard]')")

    @model_validator(mode="after")
    def _check(self) -> TrainSettings:
        if self.batch_size % self.accumulate:
            raise ConfigurationError(
                f"train.accumulate = {self.accumulate} must divide train.batch_size = {self.batch_size}"
            )
        return self


RESUMABLE = {
    "steps", "minutes", "report_every", "validation_pictures", "preview_every", "preview_pictures", "preview_steps", "checkpoint_every",
    "keep_checkpoints", "tensorboard",
}  # fmt: skip
"""Settings that may change when a run goes on; any other change would make it another run."""

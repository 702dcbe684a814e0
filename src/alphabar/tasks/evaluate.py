"""The request of `alphabar evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from ..settings.base import SamplerName, SampleSettings
from .base import Request, Words
from .fields import (
    argument,
    batch_option,
    checkpoint_option,
    device_option,
    like,
    option,
    plugin_option,
    raw_weights_option,
    split_option,
)

MEASURE, REAL, SAMPLES = "Measurement", "Real pictures", "Samples of a run"


class EvaluateRequest(Request):
    """The quality of a run's samples, or of pictures that are there, against real ones."""

    name: ClassVar[str] = "evaluate"
    examples: ClassVar[tuple[str, str, str]] = (
        "alphabar evaluate runs/mine",
        "alphabar evaluate runs/mine --by-steps 5,10,20 --extractor photos.safetensors",
        "alphabar evaluate new-pictures --data photos --training photos",
    )

    what: Path = argument("A run folder, a folder of pictures, or a .npy or .npz file.", metavar="WHAT")
    n: int = option(
        "How many pictures on each side, as far as there are so many.", 1000, flags="-n", panel=MEASURE, ge=8
    )
    extractor: Path | None = option(
        "What sees the pictures: a file of `alphabar extractor`, a TorchScript or a torch.export (.pt2) file.",
        metavar="FILE",
        panel=MEASURE,
    )
    inception: Path | None = option(
        "The weights of the official Inception network, weights-inception-2015-12-05-6726825d.pth: then the distance is FID.",
        metavar="FILE",
        panel=MEASURE,
    )
    seed: int = option("Of the samples, and of which real pictures.", 0, panel=MEASURE, ge=0)
    out: Path | None = option(
        "The folder for report.html and evaluation.json. Default: the run's; of pictures, NAME-evaluation.",
        flags="--out -o",
        metavar="FOLDER",
        panel=MEASURE,
    )
    data: str | None = option(
        "Real pictures: a folder, a .npz or .npy file, or a built-in set, such as fashion-mnist-test. Default: what the run held out.",
        metavar="DATA",
        panel=REAL,
    )
    split: str | None = split_option()
    training: str | None = option(
        "Of pictures without a run: the data that their model was trained on, for the floor and to look for copies.",
        metavar="DATA",
        panel=REAL,
    )
    sampler: SamplerName | None = like(
        SampleSettings, "sampler", unset="as the run samples", metavar="NAME", panel=SAMPLES
    )
    steps: int | None = like(SampleSettings, "steps", panel=SAMPLES)
    guidance: float | None = like(SampleSettings, "guidance", metavar="W", panel=SAMPLES)
    by_steps: Words | None = option(
        "Measure at these numbers of steps too, like 5,10,20.", metavar="N,N", panel=SAMPLES
    )
    checkpoint: str | None = checkpoint_option()
    raw_weights: bool = raw_weights_option()
    batch: int | None = batch_option()
    device: str = device_option()
    plugin: tuple[str, ...] = plugin_option()

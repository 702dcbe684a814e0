"""The request of `alphabar likelihood`."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from ..settings.base import SampleSettings, VarianceName
from .base import Request
from .fields import (
    batch_option,
    checkpoint_option,
    device_option,
    like,
    option,
    plugin_option,
    raw_weights_option,
    run_argument,
    split_option,
)

REAL, MEASURE = "Real pictures", "Measurement"


class LikelihoodRequest(Request):
    """How likely real pictures are under a model."""

    name: ClassVar[str] = "likelihood"
    examples: ClassVar[tuple[str, str, str]] = (
        "alphabar likelihood runs/mine",
        "alphabar likelihood runs/mine -n 256 --split training",
        "alphabar likelihood runs/mine --data other-photos --out bits.json",
    )

    run: Path = run_argument()
    data: str | None = option(
        "Real pictures: a folder, a .npz or .npy file, or a built-in set, such as fashion-mnist-test. Default: those of the run.",
        metavar="DATA",
        panel=REAL,
    )
    split: str | None = split_option()
    n: int = option("How many pictures, drawn by the seed.", 64, flags="-n", panel=REAL, ge=1)
    seed: int = option("Of which pictures, and of all noise.", 0, panel=REAL, ge=0)
    steps_bound: int | None = option(
        "Steps of the bound; fewer than T bound another, coarser model. Default: all T.", panel=MEASURE, ge=1
    )
    steps_ode: int = option("Steps of the ODE.", 100, panel=MEASURE, ge=2)
    probes: int = option("Random directions for each divergence of the ODE.", 1, panel=MEASURE, ge=1)
    variance: VarianceName | None = like(SampleSettings, "variance", metavar="NAME", panel=MEASURE)
    out: Path | None = option(
        "A .json file for everything: each step, each picture, the record.",
        flags="--out -o",
        metavar="FILE",
        panel=MEASURE,
    )
    checkpoint: str | None = checkpoint_option()
    raw_weights: bool = raw_weights_option()
    batch: int | None = batch_option()
    device: str = device_option()
    plugin: tuple[str, ...] = plugin_option()

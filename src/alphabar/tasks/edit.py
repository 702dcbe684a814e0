"""The request of `alphabar edit`."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from ..settings.base import SamplerName, SampleSettings
from .base import Request, Words
from .fields import (
    batch_option,
    checkpoint_option,
    device_option,
    like,
    option,
    plugin_option,
    raw_weights_option,
    run_argument,
)

RESULT, EDIT, CONDITIONS, SAMPLER = "TaskResult", "Kinds of edit", "Conditions", "Sampler"


class EditRequest(Request):
    """An edit of pictures by a trained model: exactly one of mask, strength, to, variations and seeds says which."""

    name: ClassVar[str] = "edit"
    examples: ClassVar[tuple[str, str, str]] = (
        "alphabar edit runs/mine --image cat.png --mask hole.png --out filled.png",
        "alphabar edit runs/mine --image cat.png --strength 0.5 -n 4 --out like.png",
        "alphabar edit runs/mine --seeds 3,8 --animate --out between.png",
    )

    run: Path = run_argument()
    out: Path = option(
        ".npy or .npz: an array (N, H, W, C) uint8; .png: one grid; else a folder.",
        ...,
        flags="--out -o",
        metavar="FILE",
        panel=RESULT,
    )
    n: int | None = option(
        "Results for each picture, default 1; of --to and --seeds the whole way, default 9.",
        flags="-n",
        panel=RESULT,
        ge=1,
    )
    animate: bool = option(
        "Also write OUT.webp: the way from noise; for --to and --seeds, from one picture to the other.", False, panel=RESULT
    )  # fmt: skip
    seed: int | None = option("One seed, from which each result's own is derived. Default: 0.", panel=RESULT, ge=0)
    image: Path | None = option("The picture to edit, or a folder of them.", metavar="FILE", panel=EDIT)
    mask: Path | None = option(
        "Fill in where it is white; the rest comes back exactly. A file or a folder.", metavar="FILE", panel=EDIT
    )
    strength: float | None = option(
        "Start from the picture: how much noise to put on it, above 0 (keeps it) to 1 (hardly anything is kept). With --variations: "
        "how far to go from it, default 0.3.",
        metavar="0..1",
        panel=EDIT,
    )
    to: Path | None = option("Go from --image to this picture, in -n pictures (default 9).", metavar="FILE", panel=EDIT)
    variations: int | None = option("Make this many pictures like --image.", panel=EDIT, ge=1)
    seeds: Words | None = option("Go from the picture of one seed to that of another.", metavar="A,B", panel=EDIT)
    resamplings: int | None = option(
        "Of --mask: how often each stretch is repeated, so that old and new agree. Default: 5.", panel=EDIT, ge=1
    )
    jump: int | None = option("Of --mask: steps of a stretch. Default: 5.", panel=EDIT, ge=1)
    label: str | None = option(
        "The class of the result. Default: none, the picture speaks for itself.",
        flags="--class",
        metavar="NAME",
        panel=CONDITIONS,
    )
    prompt: str | None = option("What the result should be, in words.", metavar="WORDS", panel=CONDITIONS)
    guidance: float | None = option(
        "w of u + w (c - u) for --class and --prompt: 1 is plain conditional.", metavar="W", panel=CONDITIONS
    )
    sampler: SamplerName | None = like(
        SampleSettings, "sampler", more="--mask takes ancestral or ddim; inversion is always ddim",
        metavar="NAME", panel=SAMPLER,
    )  # fmt: skip
    steps: int | None = option("Steps of the whole way from noise. Default: 50.", panel=SAMPLER, ge=1)
    checkpoint: str | None = checkpoint_option()
    raw_weights: bool = raw_weights_option()
    batch: int | None = batch_option()
    device: str = device_option()
    plugin: tuple[str, ...] = plugin_option()

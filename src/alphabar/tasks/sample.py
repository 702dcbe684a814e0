"""The request of `alphabar sample`."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import model_validator

from ..errors import ConfigurationError
from ..settings.base import ClipName, GridName, SamplerName, SampleSettings, VarianceName
from ..settings.training import PrecisionName, TrainSettings
from .base import Request, Words
from .fields import (
    MACHINE,
    batch_option,
    checkpoint_option,
    device_option,
    like,
    option,
    plugin_option,
    raw_weights_option,
    run_argument,
)

PICTURES, SAMPLER, CONDITIONS, GUIDANCE = "Pictures", "Sampler", "Conditions", "Guidance"


class SampleRequest(Request):
    """New pictures of a trained model."""

    name: ClassVar[str] = "sample"
    examples: ClassVar[tuple[str, str, str]] = (
        "alphabar sample runs/mine -n 64 --out samples.png",
        "alphabar sample runs/mine --class cat:3,dog:5 --steps 20 --out pets",
        'alphabar sample runs/mine --prompt "a red car" --guidance 1,2,4 --out w.png',
    )

    run: Path = run_argument()
    out: Path = option(
        ".npy or .npz: an array (N, H, W, C) uint8; .png: one grid; .webp or .gif: the denoising animation; else a folder.",
        ...,
        flags="--out -o",
        metavar="FILE",
        panel=PICTURES,
    )
    n: int | None = option(
        "How many pictures. Default: one an input, 16 with one input or none.", flags="-n", panel=PICTURES, ge=1
    )
    seed: int | None = option("One seed, from which each picture's own is derived. Default: 0.", panel=PICTURES, ge=0)
    seeds: Words | None = option(
        "The pictures' own seeds, one each: 0-63, or 5,7,20-29.", metavar="SEEDS", panel=PICTURES
    )
    show_conditions: bool = option(
        "In a .png grid: draw the inputs of the conditions beside each picture or below it.", False, panel=PICTURES
    )
    sampler: SamplerName | None = like(SampleSettings, "sampler", metavar="NAME", panel=SAMPLER)
    steps: int | None = like(SampleSettings, "steps", panel=SAMPLER)
    grid: GridName | None = like(SampleSettings, "grid", metavar="NAME", panel=SAMPLER)
    eta: float | None = like(SampleSettings, "eta", panel=SAMPLER)
    tolerance: float | None = like(SampleSettings, "tolerance", metavar="ERROR", panel=SAMPLER)
    variance: VarianceName | None = like(SampleSettings, "variance", metavar="NAME", panel=SAMPLER)
    clip: ClipName | None = like(SampleSettings, "clip", metavar="NAME", panel=SAMPLER)
    label: str | None = option(
        "The class to make, or NAME:3,OTHER:5. Default: all classes in turn.",
        flags="--class",
        metavar="NAME",
        panel=CONDITIONS,
    )
    prompt: tuple[str, ...] = option("What to make, in words. May be repeated.", (), metavar="WORDS", panel=CONDITIONS)
    prompts: Path | None = option("A text file with a prompt a line.", metavar="FILE", panel=CONDITIONS)
    map: Path | None = option(
        "A semantic map (palette or index PNG), or a folder of them.", metavar="FILE", panel=CONDITIONS
    )
    image: Path | None = option(
        "The picture to start from, or a folder of them: what to enlarge, colour, fill, ...",
        metavar="FILE",
        panel=CONDITIONS,
    )
    mask: Path | None = option(
        "For inpainting: white where the picture is to be filled; a file or a folder.", metavar="FILE", panel=CONDITIONS
    )
    instances: Path | None = option(
        "For a model of maps with instances: a number an object; a file or a folder.", metavar="FILE", panel=CONDITIONS
    )
    cond: tuple[str, ...] = option(
        "The value of a condition of your own. May be repeated.", (), metavar="NAME=VALUE", panel=CONDITIONS
    )
    guidance: Words | None = like(
        SampleSettings, "guidance", more="1,2,4 makes a grid with a column each; text=3,angle=2 goes by name",
        metavar="W", panel=GUIDANCE,
    )  # fmt: skip
    guidance_class: float | None = option("w of the class alone.", metavar="W", panel=GUIDANCE)
    guidance_text: float | None = option("w of the prompt alone.", metavar="W", panel=GUIDANCE)
    guidance_map: float | None = option("w of the map alone.", metavar="W", panel=GUIDANCE)
    guidance_image: float | None = option("w of the image alone.", metavar="W", panel=GUIDANCE)
    guidance_rescale: float | None = like(SampleSettings, "guidance_rescale", panel=GUIDANCE)
    guidance_interval: Words | None = like(SampleSettings, "guidance_interval", metavar="FROM,TO", panel=GUIDANCE)
    precision: PrecisionName | None = like(
        TrainSettings, "precision", unset="that of the training", metavar="NAME", panel=MACHINE
    )
    checkpoint: str | None = checkpoint_option()
    raw_weights: bool = raw_weights_option()
    batch: int | None = batch_option()
    device: str = device_option()
    plugin: tuple[str, ...] = plugin_option()

    @model_validator(mode="after")
    def _check(self) -> SampleRequest:
        if self.seeds is not None and self.seed is not None:
            raise ConfigurationError("give --seed or --seeds, not both")
        if self.prompt and self.prompts is not None:
            raise ConfigurationError("give --prompt or --prompts, not both")
        if self.show_conditions and self.out.suffix.lower() != ".png":
            raise ConfigurationError("--show-conditions draws into a grid; give a .png as --out")
        return self

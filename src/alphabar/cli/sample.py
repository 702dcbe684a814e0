"""`alphabar sample`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ConfigurationError
from .options import Batch, Checkpoint, Device, RawWeights, Run

if TYPE_CHECKING:
    from ..generation.output import Layout
    from ..generation.pipeline import Asked, Pipeline

LARGEST_ANIMATION = 100
SHOWN_NOTES = 5


def sample(
    run: Run,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help=".npy or .npz: an array (N, H, W, C) uint8; .png: one grid; .webp or .gif: the denoising animation; else a folder.",
        ),
    ],
    n: Annotated[
        int | None,
        typer.Option("-n", min=1, help="How many pictures. Default: one an input, 16 with one input or none."),
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(
            help="auto, ancestral, ddim, euler, heun, dpm++2s, dpm++2m, dpm++3m, dpm++2m-sde, unipc, deis, plms, or adaptive. Default: auto."
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1, help="Reverse steps, at most the T of training. Default: 50, of ancestral 250, of adaptive 10."
        ),
    ] = None,
    grid: Annotated[
        str | None,
        typer.Option(
            help="Where the steps lie: trailing, leading, linspace, quadratic, log_snr, karras, or few. Default: trailing, or what auto picks."
        ),
    ] = None,
    eta: Annotated[
        float | None, typer.Option(min=0, max=1, help="Of ddim: 0 is deterministic, 1 ancestral. Default: 0.")
    ] = None,
    tolerance: Annotated[
        float | None, typer.Option(help="Of adaptive: the relative error that a step may make. Default: 0.05.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="One seed, from which each picture's own is derived. Default: 0.")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="The pictures' own seeds, one each: 0-63, or 5,7,20-29.")] = None,
    variance: Annotated[
        str | None,
        typer.Option(
            help="Of ancestral: noise of a step, posterior, beta, or learned. Default: learned if it was, else posterior."
        ),
    ] = None,
    clip: Annotated[
        str | None,
        typer.Option(help="Keep the estimate of the clean picture in range: static, dynamic, or off. Default: static."),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option("--class", help="The class to make, or NAME:3,OTHER:5. Default: all classes in turn."),
    ] = None,
    prompt: Annotated[
        list[str] | None, typer.Option("--prompt", help="What to make, in words. May be repeated.")
    ] = None,
    prompts: Annotated[Path | None, typer.Option("--prompts", help="A text file with a prompt a line.")] = None,
    map_: Annotated[
        Path | None, typer.Option("--map", help="A semantic map (palette or index PNG), or a folder of them.")
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option(
            "--image", help="The picture to start from, or a folder of them: what to enlarge, colour, fill, ..."
        ),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option("--mask", help="For inpainting: white where the picture is to be filled; a file or a folder."),
    ] = None,
    instances: Annotated[
        Path | None,
        typer.Option("--instances", help="For a model of maps with instances: a number an object; a file or a folder."),
    ] = None,
    cond: Annotated[
        list[str] | None, typer.Option("--cond", metavar="NAME=VALUE", help="The value of a condition of your own.")
    ] = None,
    guidance: Annotated[
        str | None,
        typer.Option(
            help="w of u + w (c - u), for all conditions: 1 is plain conditional, 0 unconditional. 1,2,4 makes a grid with a column each; text=3,angle=2 goes by name."
        ),
    ] = None,
    guidance_class: Annotated[float | None, typer.Option(help="w of the class alone.")] = None,
    guidance_text: Annotated[float | None, typer.Option(help="w of the prompt alone.")] = None,
    guidance_map: Annotated[float | None, typer.Option(help="w of the map alone.")] = None,
    guidance_image: Annotated[float | None, typer.Option(help="w of the image alone.")] = None,
    guidance_rescale: Annotated[
        float | None, typer.Option(min=0, max=1, help="Bring strong guidance back to the plain contrast. Default: 0.")
    ] = None,
    guidance_interval: Annotated[
        str | None,
        typer.Option(metavar="FROM,TO", help="Times in 0..1 (1 is noise) at which guidance works. Default: 0,1."),
    ] = None,
    show_conditions: Annotated[
        bool,
        typer.Option("--show-conditions", help="In a .png grid: draw what was asked beside each picture or below it."),
    ] = False,
    precision: Annotated[
        str | None,
        typer.Option(
            help="float32, bfloat16, or auto: what a short measurement finds faster here. Default: that of the training."
        ),
    ] = None,
    checkpoint: Checkpoint = None,
    raw_weights: RawWeights = False,
    batch: Batch = None,
    device: Device = "auto",
) -> None:
    """Make new pictures with a trained model."""
    from ..engine.speed import settle_sampling
    from ..generation.output import ANIMATIONS, check_output
    from ..generation.pipeline import DEFAULT_COUNT, load
    from ..randomness import derive_seeds
    from .asking import Options, inputs_of, parse_guidance, spread
    from .watch import console, counted

    chosen = parse_seeds(n, seeds) if seeds is not None else None
    if chosen is not None and seed is not None:
        raise ConfigurationError("give --seed or --seeds, not both")
    check_output(out)
    if show_conditions and out.suffix.lower() != ".png":
        raise ConfigurationError("--show-conditions draws into a grid; give a .png as --out")
    by_name = {"class": guidance_class, "text": guidance_text, "map": guidance_map, "image": guidance_image}
    weight, weights = parse_guidance(guidance, by_name)
    pipeline = load(run, checkpoint, raw_weights, device).with_settings(
        sampler=sampler, grid=grid, eta=eta, tolerance=tolerance, steps=steps, variance=variance, clip=clip,
        guidance=weight, guidance_rescale=guidance_rescale, guidance_interval=parse_interval(guidance_interval),
    )  # fmt: skip
    found = inputs_of(Options(label, prompt or (), prompts, map_, image, mask, instances, cond or ()), pipeline)
    total, given = spread(found, len(chosen) if chosen else n, DEFAULT_COUNT)
    own_seeds = chosen if chosen is not None else derive_seeds(seed or 0, total)
    layout = None
    if weights is not None:
        own_seeds, given, layout = guidance_grid(pipeline, own_seeds, given, weights)
        weights = weights * total
    asked = pipeline.ask(len(own_seeds), given, weights)
    for note in notes_of(pipeline, asked):
        console.print(f"note: {note}", markup=False)
    denoiser, choice = settle_sampling(pipeline.denoiser, pipeline.shape, pipeline.evaluations(asked), precision)
    pipeline = pipeline.with_denoiser(denoiser).rounded()
    if choice is not None:
        console.print(f"speed   {choice.way}: {choice.gain:.1f} times plain float32 here", markup=False)
    if out.suffix.lower() in ANIMATIONS:
        _animate(pipeline, out, own_seeds, asked, layout)
    else:
        _write(pipeline, out, own_seeds, asked, batch, layout, show_conditions)
    record = pipeline.sampling_record()
    console.print(
        f"{counted(len(own_seeds), 'picture')} in {out}: {record['weights']} weights of {record['checkpoint']} (model {record['model']}), "
        f"{record['sampler']} on {record['grid']}{' (picked by auto)' if pipeline.picked else ''} in {record['steps']} steps", markup=False,
    )  # fmt: skip


def notes_of(pipeline: Pipeline, asked: Asked) -> list[str]:
    """What the user should know of the inputs: what is not given, what was resized, ..."""
    missing = [name for name in pipeline.conditions if name not in asked.values]
    notes = [f"without {', '.join(missing)} (not given)"] if missing else []
    more = len(asked.notes) - SHOWN_NOTES
    return [*notes, *asked.notes[:SHOWN_NOTES], *([f"... and {more} more like these"] if more > 0 else [])]


def guidance_grid(
    pipeline: Pipeline, seeds: Sequence[int], given: dict[str, list[Any]], weights: Sequence[float]
) -> tuple[list[int], dict[str, list[Any]], Layout]:
    """Every picture once for each weight, from the same noise, and the layout of the grid: a column a weight, a row a picture."""
    from ..generation.output import Layout
    from ..generation.pipeline import in_words

    if not pipeline.conditions:
        raise ConfigurationError("this model is unconditional, so there is nothing to guide; leave --guidance out")
    if not given and pipeline.classes:
        given = {"class": [pipeline.classes[i % len(pipeline.classes)] for i in range(len(seeds))]}
    if not given:
        raise ConfigurationError(
            f"there is nothing to guide: ask for something; it accepts: {', '.join(pipeline.conditions)}"
        )
    repeated = {name: [value for value in values for _ in weights] for name, values in given.items()}
    rows = [", ".join(in_words(values[i]) for values in given.values()) for i in range(len(seeds))]
    layout = Layout(len(weights), [f"w = {weight:g}" for weight in weights], rows)
    return [seed for seed in seeds for _ in weights], repeated, layout


def parse_interval(text: str | None) -> tuple[float, float] | None:
    """'0.2,0.8' -> (0.2, 0.8). Raises ConfigurationError."""

    if text is None:
        return None
    try:
        low, high = (float(word) for word in text.split(","))
        return low, high
    except ValueError:
        raise ConfigurationError(f"--guidance-interval takes two times in 0..1, like 0.2,0.8; got {text!r}") from None


def parse_seeds(n: int | None, text: str) -> list[int]:
    """'0-3,7' -> [0, 1, 2, 3, 7]. Raises ConfigurationError if it is not such a list, or n disagrees with it."""

    seeds: list[int] = []
    try:
        for part in text.split(","):
            first, dash, last = part.strip().partition("-")
            seeds += range(int(first), int(last) + 1) if dash else [int(first)]
    except ValueError:
        seeds = []
    if not seeds:
        raise ConfigurationError(f"--seeds takes numbers and ranges, like 0-63 or 5,7,20-29; got {text!r}")
    if n is not None and n != len(seeds):
        raise ConfigurationError(f"-n {n} but {len(seeds)} seeds; leave -n out")
    return seeds


def _write(
    pipeline: Pipeline,
    out: Path,
    seeds: Sequence[int],
    asked: Asked,
    batch: int | None,
    layout: Layout | None = None,
    show_conditions: bool = False,
) -> None:
    import numpy as np

    from ..generation.output import Samples, open_writer
    from ..generation.pipeline import with_conditions
    from .watch import sampling_bar

    batch = batch or pipeline.fitting_batch(asked)
    batches = -(-len(seeds) // batch)
    with sampling_bar(batches, pipeline.steps) as update, open_writer(out, len(seeds), layout) as writer:
        parts = []
        for samples in pipeline.stream(seeds, asked, batch, update):
            if show_conditions:
                parts.append(samples)  # a grid is kept in memory anyway, and all its captions are laid out together
            else:
                writer.add(samples)
        if show_conditions:
            pictures = np.concatenate([part.pictures for part in parts])
            shown = with_conditions(pipeline.denoiser, pictures, asked.values)
            writer.add(Samples(shown, list(seeds), asked.words, pipeline.sampling_record()))


def _animate(pipeline: Pipeline, out: Path, seeds: Sequence[int], asked: Asked, layout: Layout | None) -> None:
    from ..generation.images import save_animation
    from .watch import Frames, sampling_bar

    if len(seeds) > LARGEST_ANIMATION:
        raise ConfigurationError(
            f"an animation shows at most {LARGEST_ANIMATION} pictures, got {len(seeds)}; use a smaller -n"
        )
    frames = Frames(layout.columns if layout else None)
    with sampling_bar(1, pipeline.steps) as update:
        for state in pipeline.states(seeds, asked):
            update(state)
            frames.see(state, lambda x_0: pipeline.finish(x_0, asked))
    save_animation(out, frames.grids)

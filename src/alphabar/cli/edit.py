"""`alphabar edit`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ConfigurationError
from .options import Batch, Checkpoint, Device, RawWeights, Run

if TYPE_CHECKING:
    from torch import Tensor

    from ..generation.editing import Plan
    from ..generation.output import Samples
    from ..generation.pipeline import Asked, Pipeline
    from ..samplers.base import SampleState
    from .watch import Frames

STRENGTH_OF_VARIATIONS = 0.3
FRAMES_BETWEEN = 9
WAYS = ("--to", "--seeds")
"""Edits that go from one picture to another."""


@dataclass(frozen=True)
class Request:
    """What the options ask for, checked: the kind of edit and its inputs."""

    kind: str
    images: Sequence[Path] = ()
    masks: Sequence[Path] = ()
    strength: float | None = None
    between: tuple[int, int] | None = None
    n: int = 1


def edit(
    run: Run,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help=".npy or .npz: an array (N, H, W, C) uint8; .png: one grid; else a folder."),
    ],
    image: Annotated[Path | None, typer.Option("--image", help="The picture to edit, or a folder of them.")] = None,
    mask: Annotated[
        Path | None,
        typer.Option("--mask", help="Fill in where it is white; the rest comes back exactly. A file or a folder."),
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(
            help="Start from the picture: how much noise to put on it, above 0 (keeps it) to 1 (hardly anything is kept). With --variations: how far to go from it, default 0.3."
        ),
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--to", help="Go from --image to this picture, in -n pictures (default 9).")
    ] = None,
    variations: Annotated[int | None, typer.Option(min=1, help="Make this many pictures like --image.")] = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="A,B", help="Go from the picture of one seed to that of another.")
    ] = None,
    n: Annotated[
        int | None,
        typer.Option(
            "-n", min=1, help="Results for each picture, default 1; of --to and --seeds the whole way, default 9."
        ),
    ] = None,
    animate: Annotated[
        bool,
        typer.Option(
            "--animate", help="Also write OUT.webp: the way there; for --to and --seeds, from one to the other."
        ),
    ] = False,
    label: Annotated[
        str | None,
        typer.Option("--class", help="The class of the result. Default: none, the picture speaks for itself."),
    ] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", help="What the result should be, in words.")] = None,
    guidance: Annotated[
        float | None, typer.Option(help="w of u + w (c - u) for --class and --prompt: 1 is plain conditional.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the whole way from noise. Default: 50.")] = None,
    sampler: Annotated[
        str | None,
        typer.Option(help="As of `alphabar sample`. --mask takes ancestral or ddim; inversion is always ddim."),
    ] = None,
    resamplings: Annotated[
        int | None,
        typer.Option(min=1, help="Of --mask: how often each stretch is gone, so that old and new agree. Default: 5."),
    ] = None,
    jump: Annotated[int | None, typer.Option(min=1, help="Of --mask: steps of a stretch. Default: 5.")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="One seed, from which each result's own is derived. Default: 0.")
    ] = None,
    checkpoint: Checkpoint = None,
    raw_weights: RawWeights = False,
    batch: Batch = None,
    device: Device = "auto",
) -> None:
    """Edit pictures with a trained model: fill in, start from one, vary one, go between two."""
    import numpy as np

    from ..generation.images import save_animation
    from ..generation.output import ANIMATIONS, Layout, check_output, open_writer
    from ..generation.pipeline import load
    from .watch import Frames, console, counted

    if out.suffix.lower() in ANIMATIONS:
        raise ConfigurationError(
            f"--out takes the result; give a .png, .npy, .npz or a folder, and --animate for {out.suffix}"
        )
    check_output(out)
    if guidance is not None and label is None and prompt is None:
        raise ConfigurationError("--guidance strengthens --class or --prompt; give one of them")
    request = read_request(image, mask, strength, to, variations, seeds, n)
    check_paths(request, [out, animation_path(out)] if animate else [out])
    check_belongs(request.kind, sampler, {"resamplings": resamplings, "jump": jump}, {"seed": seed, "batch": batch})
    pipeline = load(run, checkpoint, raw_weights, device).with_settings(sampler=sampler, steps=steps, guidance=guidance)
    given = {name: value for name, value in (("class", label), ("text", prompt)) if value is not None}
    notes: list[str] = []
    plans = list_plans(pipeline, request, given, seed or 0, (resamplings or 5, jump or 5), batch, notes)
    for note in dict.fromkeys(notes):
        console.print(f"note: {note}", markup=False)
    sources, frames, results = iter(sources_of(request)), Frames(), list[np.ndarray]()
    with open_writer(out, sum(count for count, _ in plans), Layout(columns_of(request))) as writer:
        for i, (_, make) in enumerate(plans):
            plan = make()
            samples = run_watched(plan, frames if animate and i == 0 else None)
            samples = replace(samples, asked=[next(sources) | asked for asked in samples.asked])
            results.extend(samples.pictures)
            writer.add(samples)
    if animate:  # of the way between two pictures, there and back; otherwise of the first batch, from noise to result
        save_animation(animation_path(out), [*results, *results[::-1]] if request.kind in WAYS else frames.grids)
    walked, steps_of_all = plan.steps, samples.record["steps"]
    console.print(
        f"{counted(len(results), 'picture')} in {out}" + (f", the way there in {animation_path(out)}" if animate else "")
        + f": {samples.record['edit']}, {samples.record['sampler']} in "
        + (f"the last {walked} of {steps_of_all} steps" if walked < steps_of_all else f"{steps_of_all} steps"), markup=False,
    )  # fmt: skip


def run_watched(plan: Plan, frames: Frames | None) -> Samples:
    """The result, with a bar on the way to it; its states go into frames."""
    from .watch import sampling_bar

    with sampling_bar(1, plan.steps) as update:

        def see(state: SampleState) -> None:
            update(state)
            if frames is not None:
                frames.see(state, plan.finish)

        return plan.run(see)


def read_request(
    image: Path | None,
    mask: Path | None,
    strength: float | None,
    to: Path | None,
    variations: int | None,
    seeds: str | None,
    n: int | None,
) -> Request:
    """What is asked for. Raises ConfigurationError unless the options name exactly one kind of edit."""
    from .asking import list_files, match_by_name

    kinds = {"--mask": mask, "--to": to, "--variations": variations, "--seeds": seeds}
    named = [option for option, value in kinds.items() if value is not None]
    if len(named) > 1:
        raise ConfigurationError(f"{' and '.join(named)} are different edits; give one of them")
    kind = named[0] if named else "--strength" if strength is not None else None
    if kind is None:
        raise ConfigurationError(
            "say what to do: --mask FILE (fill in), --strength S (start from the picture), --variations N, --to FILE (go to another picture), "
            "or --seeds A,B without --image"
        )
    if strength is not None and kind in ("--mask", "--to", "--seeds"):
        raise ConfigurationError(f"--strength goes with --image alone or with --variations, not with {kind}")
    if n is not None and kind == "--variations":
        raise ConfigurationError("--variations says how many already; leave -n out")
    if kind == "--seeds":
        if image is not None:
            raise ConfigurationError("--seeds goes between two new pictures; leave --image out, or use --to")
        return Request(kind, between=parse_ends(str(seeds)), n=n or FRAMES_BETWEEN)
    if image is None:
        raise ConfigurationError(f"{kind} needs the picture to edit: --image FILE")
    files = {"image": list_files(image, "image")}
    if mask is not None:
        files = match_by_name(files | {"mask": list_files(mask, "mask")})
        return Request(kind, files["image"], files["mask"], n=n or 1)
    if to is not None:
        ends = [*files["image"], *list_files(to, "to")]
        if len(ends) != 2:
            raise ConfigurationError(f"--image and --to take one picture each, got {len(ends)} together")
        return Request(kind, ends, n=n or FRAMES_BETWEEN)
    if variations is not None:
        own = STRENGTH_OF_VARIATIONS if strength is None else strength
        return Request(kind, files["image"], strength=own, n=variations)
    return Request(kind, files["image"], strength=strength, n=n or 1)


def check_paths(request: Request, written: list[Path]) -> None:
    """Raise ConfigurationError where a result would be written over a picture that is read."""
    read = {path.resolve() for path in (*request.images, *request.masks)}
    for path in written:
        if path.resolve() in read:
            raise ConfigurationError(f"{path} is one of the pictures that are read; choose another --out")


def sources_of(request: Request) -> list[dict[str, str]]:
    """The names of the files that each result is made from, in the order of the results."""
    if request.kind == "--to":
        first, last = request.images
        return [{"picture": first.name, "to": last.name}] * request.n
    if not request.images:
        return [{}] * request.n
    each = [{"picture": image.name} for image in request.images]
    for source, mask in zip(each, request.masks, strict=False):  # masks are as many, or none
        source["mask"] = mask.name
    return [source for source in each for _ in range(request.n)]


def check_belongs(
    kind: str, sampler: str | None, of_mask: dict[str, int | None], of_others: dict[str, int | None]
) -> None:
    """Raise ConfigurationError for options that this kind of edit does not follow."""
    for name, value in of_others.items():
        if value is not None and kind in WAYS:
            raise ConfigurationError(f"{kind} draws no noise and goes in one batch; leave --{name} out")
    for name, value in of_mask.items():
        if value is not None and kind != "--mask":
            raise ConfigurationError(f"--{name} is for --mask; leave it out with {kind}")
    if kind in ("--to", "--seeds", "--variations") and sampler not in (None, "ddim"):
        raise ConfigurationError(f"{kind} goes by ddim; leave --sampler {sampler} out")


def parse_ends(text: str) -> tuple[int, int]:
    """'3,8' -> (3, 8). Raises ConfigurationError."""
    words = text.split(",")
    if len(words) != 2 or not all(word.strip().isdecimal() for word in words):
        raise ConfigurationError(f"--seeds takes two seeds, like 3,8; got {text!r}")
    return int(words[0]), int(words[1])


def list_plans(
    pipeline: Pipeline,
    request: Request,
    given: dict[str, Any],
    seed: int,
    returns: tuple[int, int],
    batch: int | None,
    notes: list[str],
) -> list[tuple[int, Any]]:
    """The batches of the edit: how many pictures each gives, and a function that plans it."""
    from ..generation import editing
    from ..generation.pipeline import Asked
    from ..randomness import derive_seeds

    def asked(n: int) -> Asked:
        return pipeline.ask(n, given) if given else Asked.nothing(n)

    pictures = editing.read_pictures(pipeline, request.images, notes) if request.images else None
    masks = editing.read_masks(pipeline, request.masks, notes) if request.masks else None
    if request.between is not None:
        between = request.between
        return [(request.n, lambda: editing.interpolate_seeds(pipeline, between, request.n, asked(request.n)))]
    assert pictures is not None
    if request.kind == "--to":
        return [(request.n, lambda: editing.interpolate(pipeline, pictures, request.n, asked(request.n)))]
    which = [i for i in range(len(pictures)) for _ in range(request.n)]
    own_seeds = derive_seeds(seed, len(which))

    def plan(part: Sequence[int], chosen: Sequence[int]) -> Plan:
        """The edit of these pictures with these seeds."""
        x: Tensor = pictures[list(part)]
        match request.kind:
            case "--mask":
                assert masks is not None
                resamplings, jump = returns
                return editing.inpaint(pipeline, x, masks[list(part)], chosen, asked(len(part)), resamplings, jump)
            case "--variations":
                return editing.variations(pipeline, x, request.strength or 0, chosen, asked(len(part)))
            case _:
                return editing.image_to_image(pipeline, x, request.strength or 0, chosen, asked(len(part)))

    batch = batch or pipeline.fitting_batch(asked(1))
    starts = range(0, len(which), batch)
    return [
        (len(which[i : i + batch]), lambda i=i: plan(which[i : i + batch], own_seeds[i : i + batch])) for i in starts
    ]


def columns_of(request: Request) -> int | None:
    """A row for each picture, or one row for the whole way from one to another."""
    return request.n if request.n > 1 else None


def animation_path(out: Path) -> Path:
    """Where the animation goes: beside the result, under its name; x.webp for x.png, x.npy.webp for x.npy, x.5.webp for a folder x.5."""
    return out.with_suffix(".webp") if out.suffix.lower() == ".png" else out.with_name(f"{out.name}.webp")

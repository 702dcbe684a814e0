"""How an editing request is planned and carried out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ConfigurationError
from ...generation import editing
from ...generation.images import save_animation
from ...generation.output import ANIMATIONS, Layout, Samples, check_output, open_writer
from ...generation.pipeline import Asked, Pipeline, load
from ...randomness import derive_seeds
from ...samplers.base import SampleState
from ..edit import EditRequest
from ..events import Emit, Event, TaskResult
from ..job import Stop, follow
from ..words import counted
from .frames import Frames, step_counter
from .inputs import list_files, match_by_name

STRENGTH_OF_VARIATIONS = 0.3
FRAMES_BETWEEN = 9
RESAMPLINGS, JUMP = 5, 5
INTERPOLATIONS = ("--to", "--seeds")
"""Edits that go from one picture to another."""


@dataclass(frozen=True)
class Edit:
    """The kind of an edit, by the option that names it, and its inputs."""

    kind: str
    images: Sequence[Path] = ()
    masks: Sequence[Path] = ()
    strength: float | None = None
    between: tuple[int, int] | None = None
    n: int = 1


@dataclass(frozen=True)
class Batch:
    """Edits that are computed together. build: makes the plan of the library, when its turn comes."""

    count: int
    build: Callable[[], editing.Plan]


@dataclass(frozen=True)
class EditPlan:
    """An edit in batches that fit into memory. notes: what was changed in the pictures when they were read."""

    request: EditRequest
    edit: Edit
    batches: list[Batch]
    notes: list[str]

    def lines(self) -> list[str]:
        """The notes."""
        return [f"note: {note}" for note in dict.fromkeys(self.notes)]


def plan(request: EditRequest, emit: Emit) -> EditPlan:
    """Check the request, load the model and read the pictures. Raises ConfigurationError, CheckpointError, DataError."""
    out = request.out
    if out.suffix.lower() in ANIMATIONS:
        raise ConfigurationError(
            f"--out takes the result; give a .png, .npy, .npz or a folder, and --animate for {out.suffix}"
        )
    check_output(out)
    if request.guidance is not None and request.label is None and request.prompt is None:
        raise ConfigurationError("--guidance strengthens --class or --prompt; give one of them")
    edit = read_edit(request)
    check_paths(edit, [out, animation_path(out)] if request.animate else [out])
    check_options(edit.kind, request)
    pipeline = load(request.run, request.checkpoint, request.raw_weights, request.device)
    pipeline = pipeline.with_settings(sampler=request.sampler, steps=request.steps, guidance=request.guidance)
    notes: list[str] = []
    return EditPlan(request, edit, list_batches(pipeline, edit, request, notes), notes)


def run(plan: EditPlan, stop: Stop) -> Iterator[Event]:
    """Make the edits and write them. A stop leaves nothing behind."""
    request, edit = plan.request, plan.edit
    frames, pictures, sources = Frames(), list[np.ndarray](), iter(sources_of(edit))
    with open_writer(request.out, sum(batch.count for batch in plan.batches), Layout(columns_of(edit))) as writer:
        for i, batch in enumerate(plan.batches):
            step = batch.build()
            samples = yield from follow(watched(step, frames if request.animate and i == 0 else None), stop)
            samples = replace(samples, asked=[next(sources) | words for words in samples.asked])
            pictures.extend(samples.pictures)
            writer.add(samples)
    files = [request.out]
    if request.animate:  # between two pictures there and back; otherwise the first batch, from noise to result
        files.append(animation_path(request.out))
        save_animation(files[-1], [*pictures, *pictures[::-1]] if edit.kind in INTERPOLATIONS else frames.grids)
    yield TaskResult([summary(request, len(pictures), samples.record, step.steps)], {"record": samples.record}, files)


def summary(request: EditRequest, count: int, record: dict[str, Any], steps: int) -> str:
    """The result in a line. steps: that were taken, of those in the record."""
    animation = f", the way there in {animation_path(request.out)}" if request.animate else ""
    total = record["steps"]
    taken = f"the last {steps} of {total} steps" if steps < total else f"{total} steps"
    return f"{counted(count, 'picture')} in {request.out}{animation}: {record['edit']}, {record['sampler']} in {taken}"


def watched(step: editing.Plan, frames: Frames | None) -> Callable[[Emit], Samples]:
    """The work of one batch; its states go into frames."""

    def work(emit: Emit) -> Samples:
        count = step_counter(emit, 1, step.steps)

        def on_state(state: SampleState) -> None:
            count(state)
            if frames is not None:
                frames.see(state, step.finish)

        return step.run(on_state)

    return work


# --- the request ----------------------------------------------------------------------------------------------------------------


def read_edit(request: EditRequest) -> Edit:
    """The edit that the request names. Raises ConfigurationError unless it is exactly one."""
    kind = kind_of(request)
    if kind == "--seeds":
        if request.image is not None:
            raise ConfigurationError("--seeds goes between two new pictures; leave --image out, or use --to")
        return Edit(kind, between=parse_ends(str(request.seeds)), n=request.n or FRAMES_BETWEEN)
    if request.image is None:
        raise ConfigurationError(f"{kind} needs the picture to edit: --image FILE")
    files = {"image": list_files(request.image, "image")}
    if request.mask is not None:
        files = match_by_name(files | {"mask": list_files(request.mask, "mask")})
        return Edit(kind, files["image"], files["mask"], n=request.n or 1)
    if request.to is not None:
        ends = [*files["image"], *list_files(request.to, "to")]
        if len(ends) != 2:
            raise ConfigurationError(f"--image and --to take one picture each, got {len(ends)} together")
        return Edit(kind, ends, n=request.n or FRAMES_BETWEEN)
    if request.variations is not None:
        strength = STRENGTH_OF_VARIATIONS if request.strength is None else request.strength
        return Edit(kind, files["image"], strength=strength, n=request.variations)
    return Edit(kind, files["image"], strength=request.strength, n=request.n or 1)


def kind_of(request: EditRequest) -> str:
    """The option that names the edit. Raises ConfigurationError for none, for several, and for what does not go with it."""
    kinds = {
        "--mask": request.mask, "--to": request.to, "--variations": request.variations, "--seeds": request.seeds,
    }  # fmt: skip
    named = [flag for flag, value in kinds.items() if value is not None]
    if len(named) > 1:
        raise ConfigurationError(f"{' and '.join(named)} are different edits; give one of them")
    kind = named[0] if named else "--strength" if request.strength is not None else None
    if kind is None:
        raise ConfigurationError(
            "say what to do: --mask FILE (fill in), --strength S (start from the picture), --variations N, --to FILE (go to another picture), "
            "or --seeds A,B without --image"
        )
    if request.strength is not None and kind in ("--mask", "--to", "--seeds"):
        raise ConfigurationError(f"--strength goes with --image alone or with --variations, not with {kind}")
    if request.n is not None and kind == "--variations":
        raise ConfigurationError("--variations says how many already; leave -n out")
    return kind


def check_paths(edit: Edit, written: list[Path]) -> None:
    """Raise ConfigurationError where a result would be written over a picture that is read."""
    read = {path.resolve() for path in (*edit.images, *edit.masks)}
    for path in written:
        if path.resolve() in read:
            raise ConfigurationError(f"{path} is one of the pictures that are read; choose another --out")


def check_options(kind: str, request: EditRequest) -> None:
    """Raise ConfigurationError for options that this kind of edit does not follow."""
    for name in ("seed", "batch"):
        if getattr(request, name) is not None and kind in INTERPOLATIONS:
            raise ConfigurationError(f"{kind} draws no noise and goes in one batch; leave --{name} out")
    for name in ("resamplings", "jump"):
        if getattr(request, name) is not None and kind != "--mask":
            raise ConfigurationError(f"--{name} is for --mask; leave it out with {kind}")
    if kind in ("--to", "--seeds", "--variations") and request.sampler not in (None, "ddim"):
        raise ConfigurationError(f"{kind} goes by ddim; leave --sampler {request.sampler} out")


def parse_ends(text: str) -> tuple[int, int]:
    """'3,8' -> (3, 8). Raises ConfigurationError."""
    words = text.split(",")
    if len(words) != 2 or not all(word.strip().isdecimal() for word in words):
        raise ConfigurationError(f"--seeds takes two seeds, like 3,8; got {text!r}")
    return int(words[0]), int(words[1])


# --- the batches ----------------------------------------------------------------------------------------------------------------


def list_batches(pipeline: Pipeline, edit: Edit, request: EditRequest, notes: list[str]) -> list[Batch]:
    """The batches of the edit; what is changed in the pictures when they are read is added to the notes."""
    values = {name: value for name, value in (("class", request.label), ("text", request.prompt)) if value is not None}

    def inputs(n: int) -> Asked:
        return pipeline.ask(n, values) if values else Asked.nothing(n)

    pictures = editing.read_pictures(pipeline, edit.images, notes) if edit.images else None
    masks = editing.read_masks(pipeline, edit.masks, notes) if edit.masks else None
    n = edit.n
    if edit.between is not None:
        between = edit.between
        return [Batch(n, lambda: editing.interpolate_seeds(pipeline, between, n, inputs(n)))]
    assert pictures is not None
    if edit.kind == "--to":
        return [Batch(n, lambda: editing.interpolate(pipeline, pictures, n, inputs(n)))]
    indices = [i for i in range(len(pictures)) for _ in range(n)]
    all_seeds, strength = derive_seeds(request.seed or 0, len(indices)), edit.strength or 0

    def build(part: slice) -> editing.Plan:
        chosen, seeds = indices[part], all_seeds[part]
        x, cond = pictures[chosen], inputs(len(chosen))
        match edit.kind:
            case "--mask":
                assert masks is not None
                resamplings, jump = request.resamplings or RESAMPLINGS, request.jump or JUMP
                return editing.inpaint(pipeline, x, masks[chosen], seeds, cond, resamplings, jump)
            case "--variations":
                return editing.variations(pipeline, x, strength, seeds, cond)
            case _:
                return editing.image_to_image(pipeline, x, strength, seeds, cond)

    size = request.batch or pipeline.fitting_batch(inputs(1))
    parts = [slice(start, start + size) for start in range(0, len(indices), size)]
    return [Batch(len(indices[part]), partial(build, part)) for part in parts]


# --- the result -----------------------------------------------------------------------------------------------------------------


def sources_of(edit: Edit) -> list[dict[str, str]]:
    """The names of the files that each result is made from, in the order of the results."""
    if edit.kind == "--to":
        first, last = edit.images
        return [{"picture": first.name, "to": last.name}] * edit.n
    if not edit.images:
        return [{}] * edit.n
    each = [{"picture": image.name} for image in edit.images]
    for source, mask in zip(each, edit.masks, strict=False):  # masks are as many, or none
        source["mask"] = mask.name
    return [source for source in each for _ in range(edit.n)]


def columns_of(edit: Edit) -> int | None:
    """A row for each picture, or one row for the whole way from one to another."""
    return edit.n if edit.n > 1 else None


def animation_path(out: Path) -> Path:
    """Where the animation goes: beside the result, under its name; x.webp for x.png, x.npy.webp for x.npy, x.5.webp for a folder x.5."""
    return out.with_suffix(".webp") if out.suffix.lower() == ".png" else out.with_name(f"{out.name}.webp")

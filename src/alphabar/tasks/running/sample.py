"""How a sampling request is planned and carried out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...engine.speed import settle_sampling
from ...errors import ConfigurationError
from ...generation.images import save_animation
from ...generation.output import ANIMATIONS, Layout, Samples, check_output, open_writer
from ...generation.pipeline import DEFAULT_COUNT, Asked, Pipeline, in_words, load, with_conditions
from ...randomness import derive_seeds
from ..events import Emit, Event, Note, TaskResult
from ..job import Stop, follow
from ..sample import SampleRequest
from ..words import counted
from .frames import Frames, step_counter
from .inputs import inputs_of, parse_guidance, parse_interval, parse_seeds, spread

LARGEST_ANIMATION = 100
SHOWN_NOTES = 5


@dataclass(frozen=True)
class SamplePlan:
    """A model, a seed for each picture, and the inputs of its conditions. layout: of a grid of guidance weights."""

    request: SampleRequest
    pipeline: Pipeline
    seeds: list[int]
    inputs: Asked
    layout: Layout | None

    def lines(self) -> list[str]:
        """What the user should know of the inputs: conditions that are not given, maps that were resized, ..."""
        missing = [name for name in self.pipeline.conditions if name not in self.inputs.values]
        notes = [f"without {', '.join(missing)} (not given)"] if missing else []
        more = len(self.inputs.notes) - SHOWN_NOTES
        notes += self.inputs.notes[:SHOWN_NOTES] + ([f"... and {more} more like these"] if more > 0 else [])
        return [f"note: {note}" for note in notes]


def plan(request: SampleRequest, emit: Emit) -> SamplePlan:
    """Load the model and read the inputs. Raises ConfigurationError, CheckpointError."""
    seeds = parse_seeds(request.n, request.seeds) if request.seeds is not None else None
    check_output(request.out)
    pipeline, weights = load_pipeline(request)
    inputs = inputs_of(request, pipeline.classes)
    total, inputs = spread(inputs, len(seeds) if seeds else request.n, DEFAULT_COUNT)
    seeds = seeds if seeds is not None else derive_seeds(request.seed or 0, total)
    layout = None
    if weights is not None:
        seeds, inputs, layout = guidance_grid(pipeline, seeds, inputs, weights)
        weights = weights * total
    if request.out.suffix.lower() in ANIMATIONS and len(seeds) > LARGEST_ANIMATION:
        raise ConfigurationError(
            f"an animation shows at most {LARGEST_ANIMATION} pictures, got {len(seeds)}; use a smaller -n"
        )
    return SamplePlan(request, pipeline, seeds, pipeline.ask(len(seeds), inputs, weights), layout)


def load_pipeline(request: SampleRequest) -> tuple[Pipeline, list[float] | None]:
    """The model with the sampling settings of the request, and the guidance weights of a grid if it names several."""
    by_name = {name: getattr(request, f"guidance_{name}") for name in ("class", "text", "map", "image")}
    weight, weights = parse_guidance(request.guidance, by_name)
    pipeline = load(request.run, request.checkpoint, request.raw_weights, request.device)
    names = ("sampler", "grid", "eta", "tolerance", "steps", "variance", "clip", "guidance_rescale")
    return pipeline.with_settings(
        **{name: getattr(request, name) for name in names},
        guidance=weight,
        guidance_interval=parse_interval(request.guidance_interval),
    ), weights


def guidance_grid(
    pipeline: Pipeline, seeds: Sequence[int], inputs: dict[str, list[Any]], weights: Sequence[float]
) -> tuple[list[int], dict[str, list[Any]], Layout]:
    """Every picture once for each weight, from the same noise, and the layout of the grid: a column a weight, a row a picture."""
    if not pipeline.conditions:
        raise ConfigurationError("this model is unconditional, so there is nothing to guide; leave --guidance out")
    if not inputs and pipeline.classes:
        inputs = {"class": [pipeline.classes[i % len(pipeline.classes)] for i in range(len(seeds))]}
    if not inputs:
        raise ConfigurationError(
            f"there is nothing to guide: ask for something; it accepts: {', '.join(pipeline.conditions)}"
        )
    repeated = {name: [value for value in values for _ in weights] for name, values in inputs.items()}
    rows = [", ".join(in_words(values[i]) for values in inputs.values()) for i in range(len(seeds))]
    layout = Layout(len(weights), [f"w = {weight:g}" for weight in weights], rows)
    return [seed for seed in seeds for _ in weights], repeated, layout


def run(plan: SamplePlan, stop: Stop) -> Iterator[Event]:
    """Make the pictures and write them. A stop leaves nothing behind."""
    request = plan.request
    pipeline, speed = accelerate(plan)
    if speed:
        yield Note(speed)
    animated = request.out.suffix.lower() in ANIMATIONS
    work = animate if animated else write
    yield from follow(lambda emit: work(plan, pipeline, emit), stop)
    record = pipeline.sampling_record()
    line = (
        f"{counted(len(plan.seeds), 'picture')} in {request.out}: {record['weights']} weights of {record['checkpoint']} "
        f"(model {record['model']}), {record['sampler']} on {record['grid']}{' (picked by auto)' if pipeline.picked else ''} "
        f"in {record['steps']} steps"
    )
    yield TaskResult([line], {"pictures": len(plan.seeds), "seeds": plan.seeds, "record": record}, [request.out])


def accelerate(plan: SamplePlan) -> tuple[Pipeline, str | None]:
    """The pipeline as it computes fastest here, and a line about the gain if there is one."""
    pipeline = plan.pipeline
    evaluations = pipeline.evaluations(plan.inputs)
    denoiser, choice = settle_sampling(pipeline.denoiser, pipeline.shape, evaluations, plan.request.precision)
    return pipeline.with_denoiser(
        denoiser
    ).rounded(), None if choice is None else f"speed   {choice.way}: {choice.gain:.1f} times plain float32 here"


def write(plan: SamplePlan, pipeline: Pipeline, emit: Emit) -> None:
    """The pictures as an array, a grid or a folder."""
    request, inputs = plan.request, plan.inputs
    batch = request.batch or pipeline.fitting_batch(inputs)
    on_state = step_counter(emit, -(-len(plan.seeds) // batch), pipeline.steps)
    with open_writer(request.out, len(plan.seeds), plan.layout) as writer:
        batches = pipeline.stream(plan.seeds, inputs, batch, on_state)
        if not request.show_conditions:
            for samples in batches:
                writer.add(samples)
            return
        # a grid is kept in memory anyway, and all its captions are laid out together
        pictures = np.concatenate([samples.pictures for samples in batches])
        shown = with_conditions(pipeline.denoiser, pictures, inputs.values)
        writer.add(Samples(shown, plan.seeds, inputs.words, pipeline.sampling_record()))


def animate(plan: SamplePlan, pipeline: Pipeline, emit: Emit) -> None:
    """The states from noise to the pictures as an animation."""
    frames = Frames(plan.layout.columns if plan.layout else None)
    on_state = step_counter(emit, 1, pipeline.steps)
    for state in pipeline.states(plan.seeds, plan.inputs):
        on_state(state)
        frames.see(state, lambda x_0: pipeline.finish(x_0, plan.inputs))
    save_animation(plan.request.out, frames.grids)

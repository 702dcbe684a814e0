"""Editing with a trained model: fill a hole, start from a picture, go between two, vary one. No training of its own.

Each edit is prepared as a `Plan`, whose states are a generator from the start to the result, as those of sampling are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..conditions.image import load_input, note_size
from ..data.pictures import to_signed, to_uint8
from ..diffusion.denoiser import DenoiserLike
from ..diffusion.gaussian import diffuse
from ..engine.ways import in_float32
from ..errors import ConfigurationError
from ..samplers.base import Noise, SampleState, last_state, seeded_noises, walk
from ..samplers.ddim import DDIM, DDIMInversion
from ..samplers.repaint import RePaint, with_returns
from .output import Samples
from .pipeline import Asked, Pipeline, StateCallback, watched


@dataclass(frozen=True)
class Plan:
    """An edit of a batch, ready to run: the states on the way, and what becomes of the last x_t (N, C, H, W) as uint8 (N, H, W, C)."""

    pipeline: Pipeline
    seeds: list[int]
    asked: Asked
    states: Iterator[SampleState]
    steps: int
    record: dict[str, Any]
    finish: Callable[[Tensor], np.ndarray] = to_uint8

    def run(self, on_state: StateCallback | None = None) -> Samples:
        """The result."""
        state = last_state(watched(self.states, on_state))
        record = self.record | self.pipeline.record
        return Samples(self.finish(state.x_t), self.seeds, self.asked.words, record)


def read_pictures(pipeline: Pipeline, pictures: Sequence[Any], notes: list[str] | None = None) -> Tensor:
    """Pictures, paths, uint8 arrays (H, W[, C]) or images of Pillow, as the model sees them: (N, C, H, W) in [-1, 1], resized as in training."""
    return _read(pipeline, pictures, _picture_shape(pipeline)[0], notes, "picture")


def read_masks(pipeline: Pipeline, masks: Sequence[Any], notes: list[str] | None = None) -> Tensor:
    """Masks, paths, uint8 arrays (H, W) or images of Pillow, white where a picture is to be filled: (N, 1, H, W) of 0 and 1, resized alike."""
    return (_read(pipeline, masks, 1, notes, "mask") > 0).float()


def _read(pipeline: Pipeline, inputs: Sequence[Any], channels: int, notes: list[str] | None, kind: str) -> Tensor:
    _, *size = _picture_shape(pipeline)
    if isinstance(inputs, str | Path) or len(inputs) == 0:
        raise ConfigurationError(f"give a list of at least one {kind}, got {inputs!r}")
    for given in inputs:
        note_size(given, (size[0], size[1]), [] if notes is None else notes, kind)
    arrays = [load_input(given, (size[0], size[1]), channels, pipeline.background) for given in inputs]
    return to_signed(np.stack(arrays)).to(pipeline.device)


def inpaint(
    pipeline: Pipeline,
    pictures: Tensor,
    masks: Tensor,
    seeds: Sequence[int],
    asked: Asked | None = None,
    resamplings: int = 5,
    jump: int = 5,
) -> Plan:
    """Fill where masks (N, 1, H, W) are 1; elsewhere the picture (N, C, H, W) comes back exactly (RePaint, Lugmayr et al. 2022).

    At every stretch of `jump` steps the way goes back up and down again until it was gone `resamplings` times (their j and r),
    so that what is filled in and what is known come to agree. Ancestral steps unless the settings name ddim.
    Raises ConfigurationError if a mask leaves nothing to fill.
    """
    check_counts(pictures, seeds)
    if len(masks) != len(pictures):
        raise ConfigurationError(f"{len(pictures)} pictures need as many masks, got {len(masks)}")
    if not bool(masks.flatten(1).any(1).all()):
        raise ConfigurationError("a mask has nothing to fill: it must be white somewhere")
    asked = asked or Asked.nothing(len(seeds))
    pipeline = one_step(pipeline)
    times = with_returns(pipeline.times(), jump, resamplings)
    sampler = RePaint(pipeline.sampler(), pictures, masks)
    noises = seeded_noises(seeds, pipeline.shape, pipeline.device)
    states = walk(sampler, pipeline.conditioned(len(seeds), asked), noises(0)(), times, noises)
    known, filled = to_uint8(pictures), _spread(masks, pictures)
    record = {"edit": "inpaint", "resamplings": resamplings, "jump": jump} | pipeline.sampling_record()
    return Plan(
        pipeline, list(seeds), asked, states, len(times) - 1, record, lambda x: np.where(filled, to_uint8(x), known)
    )


def image_to_image(
    pipeline: Pipeline, pictures: Tensor, strength: float, seeds: Sequence[int], asked: Asked | None = None
) -> Plan:
    """Noise pictures (N, C, H, W) up to t = strength and come back (SDEdit, Meng et al. 2022, algorithm 1).

    strength in (0, 1]: little keeps the picture, 1 keeps next to nothing. The steps are those of the whole way that lie below it.
    """
    check_counts(pictures, seeds)
    asked = asked or Asked.nothing(len(seeds))
    times = times_from(pipeline, strength)
    noises = seeded_noises(seeds, pipeline.shape, pipeline.device)
    x = diffuse(pictures, pipeline.denoiser.schedule.alpha_bar(times[0]), noises(0)("edit"))
    states = walk(pipeline.sampler(), pipeline.conditioned(len(seeds), asked), x, times, noises)
    record = {"edit": "image to image", "strength": strength} | pipeline.sampling_record()
    return Plan(pipeline, list(seeds), asked, states, len(times) - 1, record)


def encode(pipeline: Pipeline, pictures: Tensor, asked: Asked | None = None) -> Tensor:
    """The noise (N, C, H, W) from which DDIM draws these pictures (N, C, H, W), at the first of `inversion_times`."""
    denoiser = pipeline.conditioned(len(pictures), asked or Asked.nothing(len(pictures)))
    times = inversion_times(pipeline).flip(0)
    return last_state(walk(DDIMInversion(), denoiser, pictures, times, _no_noises)).x_t


def decode(
    pipeline: Pipeline, noise: Tensor, asked: Asked | None = None, times: Tensor | None = None
) -> Iterator[SampleState]:
    """The states of DDIM from noise (N, C, H, W) to pictures; times: default those of `encode`."""
    denoiser: DenoiserLike = pipeline.conditioned(len(noise), asked or Asked.nothing(len(noise)))
    return walk(DDIM(), denoiser, noise, inversion_times(pipeline) if times is None else times, _no_noises)


def interpolate(pipeline: Pipeline, ends: Tensor, n: int, asked: Asked | None = None) -> Plan:
    """n pictures between two, the ends (2, C, H, W) included: slerp of the noise that inversion finds for them (Song et al. 2021a,
    sec. 5.3)."""
    if len(ends) != 2:
        raise ConfigurationError(f"the way goes between two pictures, got {len(ends)}")
    pipeline = reversible(pipeline)
    asked = asked or Asked.nothing(n)
    both = encode(pipeline, ends, _ends_of(asked))
    way = slerp(both[:1], both[1:], torch.linspace(0, 1, n))
    return _drawn(pipeline, way, inversion_times(pipeline), [0] * n, asked, {"edit": "interpolate pictures"})


def interpolate_seeds(pipeline: Pipeline, seeds: tuple[int, int], n: int, asked: Asked | None = None) -> Plan:
    """n pictures between those of two seeds, both included: slerp of their noise."""
    pipeline, asked = deterministic(pipeline), asked or Asked.nothing(n)
    first, second = seeded_noises(seeds, pipeline.shape, pipeline.device)(0)().split(1)
    way, record = slerp(first, second, torch.linspace(0, 1, n)), {"edit": "interpolate seeds", "between": list(seeds)}
    return _drawn(pipeline, way, pipeline.times(), [seeds[0]] * n, asked, record)


def variations(
    pipeline: Pipeline, pictures: Tensor, strength: float, seeds: Sequence[int], asked: Asked | None = None
) -> Plan:
    """One picture like each (N, C, H, W): the noise that inversion finds for it, turned towards fresh noise by `strength` of the way."""
    if not 0 < strength <= 1:
        raise ConfigurationError(f"strength must lie in (0, 1], got {strength:g}")
    check_counts(pictures, seeds)
    pipeline = reversible(pipeline)
    asked = asked or Asked.nothing(len(seeds))
    own = encode(pipeline, pictures, asked)
    fresh = seeded_noises(seeds, pipeline.shape, pipeline.device)(0)("edit")
    turned = slerp(own, fresh, torch.full((len(seeds),), strength))
    record = {"edit": "variations", "strength": strength}
    return _drawn(pipeline, turned, inversion_times(pipeline), list(seeds), asked, record)


def check_counts(pictures: Tensor, seeds: Sequence[int]) -> None:
    """Raise ConfigurationError unless each picture has a seed of its own."""
    if len(pictures) != len(seeds):
        raise ConfigurationError(f"each picture needs a seed: got {len(pictures)} pictures and {len(seeds)} seeds")


def slerp(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    """sin((1 - s) w) / sin(w) first + sin(s w) / sin(w) second, w being the angle between them (Shoemake 1985).

    first, second (1 or n, ...), share (n,) in [0, 1]; returns (n, ...). Noise so mixed keeps the length of noise; a straight line
    would be too short in the middle. Where both point the same way it is the straight line.
    """
    a, b = (widened(x).flatten(1) for x in (first, second))
    w = torch.nn.functional.cosine_similarity(a, b, dim=1).clamp(-1, 1).acos()[:, None]
    s = share.to(a)[:, None]
    straight = w.sin().abs() < 1e-6
    on_a = torch.where(straight, 1 - s, ((1 - s) * w).sin() / w.sin())
    on_b = torch.where(straight, s, (s * w).sin() / w.sin())
    return (on_a * a + on_b * b).reshape(len(share), *first.shape[1:]).to(first.dtype)


def widened(x: Tensor) -> Tensor:
    """x in float64 on the CPU and in float32 elsewhere, because some devices have no float64."""
    return x.double() if x.device.type == "cpu" else x.float()


def times_from(pipeline: Pipeline, strength: float) -> Tensor:
    """The times of the pipeline's grid from the one nearest to `strength` down. Raises ConfigurationError outside (0, 1]."""
    if not 0 < strength <= 1:
        raise ConfigurationError(f"strength must lie in (0, 1], got {strength:g}")
    times = pipeline.times()
    start = int((times[:-1] - strength).abs().argmin())
    return times[start:]


def inversion_times(pipeline: Pipeline) -> Tensor:
    """The pipeline's grid, without the times at which nothing of a picture is left. Raises ConfigurationError if that is all of it."""
    times = pipeline.times()
    times = times[pipeline.denoiser.schedule.signal(times) > 0]
    if len(times) < 2:
        raise ConfigurationError("with zero terminal SNR, going to noise and back needs at least 2 steps, got 1")
    return times


def deterministic(pipeline: Pipeline) -> Pipeline:
    """With the step of DDIM and as many steps as before."""
    return pipeline.with_settings(sampler="ddim", eta=0, steps=pipeline.steps)


def reversible(pipeline: Pipeline) -> Pipeline:
    """With the step of DDIM, in float32, and without clipping, which cannot be undone."""
    found = deterministic(pipeline).with_settings(clip="off")
    return found.with_denoiser(in_float32(found.denoiser))


def one_step(pipeline: Pipeline) -> Pipeline:
    """With a method that can go up and down, ancestral or ddim. Raises ConfigurationError if another one is set."""
    if pipeline.settings.sampler == "auto" and pipeline.settings.tolerance is None:
        return pipeline.with_settings(
            sampler="ddim" if pipeline.settings.eta is not None else "ancestral", steps=pipeline.steps
        )
    if pipeline.method.sampler not in ("ancestral", "ddim"):
        raise ConfigurationError(
            f"filling in goes up and down in time, with sampler ancestral or ddim; got {pipeline.method.sampler}"
        )
    return pipeline


def _ends_of(asked: Asked) -> Asked:
    """What is asked of the first and of the last picture."""
    keep = [0, len(asked) - 1]
    return replace(
        asked,
        values={name: values[keep] for name, values in asked.values.items()},
        words=[asked.words[i] for i in keep],
        guidance=asked.guidance and [asked.guidance[i] for i in keep],
    )


def _drawn(
    pipeline: Pipeline, noise: Tensor, times: Tensor, seeds: list[int], asked: Asked, record: dict[str, Any]
) -> Plan:
    """The plan that draws pictures from given noise at times[0]; the pipeline's method is DDIM."""
    states = decode(pipeline, noise, asked, times)
    return Plan(pipeline, seeds, asked, states, len(times) - 1, record | pipeline.sampling_record())


def _no_noises(step: int) -> Noise:
    def none(stream: str = "sample") -> Tensor:
        raise AssertionError("DDIM with eta = 0 draws no noise")

    return none


def _spread(masks: Tensor, pictures: Tensor) -> np.ndarray:
    """Masks (N, 1, H, W) as bool (N, H, W, C)."""
    spread: np.ndarray = (masks > 0.5).expand_as(pictures).permute(0, 2, 3, 1).cpu().numpy()
    return spread


def _picture_shape(pipeline: Pipeline) -> tuple[int, int, int]:
    if len(pipeline.shape) != 3:
        raise ConfigurationError(f"this model makes points of shape {pipeline.shape}, not pictures")
    return pipeline.shape[0], pipeline.shape[1], pipeline.shape[2]

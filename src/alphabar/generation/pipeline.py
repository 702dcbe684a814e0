"""From a trained run to new pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import __version__
from ..data.pictures import to_uint8
from ..diffusion.denoiser import Denoiser, DenoiserLike
from ..diffusion.guidance import ClassifierGuided, Guided
from ..diffusion.schedule import Time
from ..engine.speed import MANY_EVALUATIONS, fastest_batch, fastest_kernels
from ..engine.ways import Way, watchable, way_of, with_way
from ..errors import ConfigurationError
from ..machine import available_memory, pick_device
from ..model import build_denoiser
from ..networks.cond import Cond
from ..randomness import derive_seeds
from ..runs.checkpoint import Checkpoint, find_checkpoint, load_weights
from ..samplers.base import Sampler, SampleState, last_state, sample_states
from ..samplers.clip import Clipped
from ..samplers.grids import time_grid
from ..samplers.methods import Choice, Options, auto_choice, build_sampler
from ..settings.base import OPTION_OF, SampleSettings, validate
from .images import captioned, to_image
from .output import Samples

DEFAULT_STEPS = 50
STEPS_OF = {"ancestral": 250, "adaptive": 10}  # where the default is another
DEFAULT_COUNT = 16
LARGEST_BATCH = 128

StateCallback = Callable[[SampleState], None]


@dataclass(frozen=True)
class Asked:
    """What is asked of each of n pictures: values of the conditions by name, what they are in words, and perhaps a guidance each.

    `notes` tell what was changed on the way, such as the size of a map.
    """

    values: dict[str, np.ndarray]
    words: list[dict[str, Any]]
    guidance: list[float] | None = None
    notes: list[str] = field(default_factory=list)

    @classmethod
    def nothing(cls, n: int) -> Asked:
        """No conditions for n pictures."""
        return cls({}, [{} for _ in range(n)])

    def __len__(self) -> int:
        return len(self.words)

    def part(self, chosen: slice) -> Asked:
        """Some of the pictures."""
        guidance = self.guidance and self.guidance[chosen]
        return Asked({name: v[chosen] for name, v in self.values.items()}, self.words[chosen], guidance)


class Pipeline:
    """A denoiser ready to make pictures; `record` tells which weights it holds."""

    def __init__(
        self,
        denoiser: Denoiser,
        shape: Sequence[int],
        settings: SampleSettings | None = None,
        record: dict[str, Any] | None = None,
        background: str = "white",
    ) -> None:
        self.denoiser = denoiser.eval()
        self.shape = tuple(shape)
        self.settings = settings or SampleSettings()
        self.record = {"alphabar": __version__} | (record or {})
        self.background = background  # behind pictures with transparency, as in training

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.denoiser.parameters()).device

    def with_denoiser(self, denoiser: Denoiser) -> Pipeline:
        """The same settings with another denoiser, such as another way to compute this one."""
        return Pipeline(denoiser, self.shape, self.settings, self.record, self.background)

    def rounded(self) -> Pipeline:
        """The same model with the weights of products rounded once to the precision in which they are used, not at every call.

        The weights of this pipeline stay as they are; in float32 it is this pipeline.
        """
        way = way_of(self.denoiser)
        return self if way.precision == "float32" else self.with_denoiser(with_way(self.denoiser, way, rounded=True))

    @property
    def conditions(self) -> list[str]:
        """The names of the conditions that it was trained with, in the order in which guidance nests."""
        return [name for name, _ in self.denoiser.encoders.items()]

    @property
    def classes(self) -> list[str]:
        """The classes that it can be asked for, empty if it was trained without."""
        return list(getattr(self.denoiser.encoders["class"], "classes", [])) if "class" in self.conditions else []

    def with_settings(self, **changes: Any) -> Pipeline:
        """The same model with other sampling settings; None leaves one as it is. Raises ConfigurationError."""
        given = {key: value for key, value in changes.items() if value is not None}
        values = self.settings.model_dump() | given
        if "sampler" in given:  # options that another sampler was saved with go with it
            values |= {name: None for name, own in OPTION_OF.items() if own != given["sampler"] and name not in given}
        settings = validate(SampleSettings, values)
        if isinstance(settings.guidance, dict):
            for name in settings.guidance:
                self._check_condition(name)
        pipeline = self.with_denoiser(self.denoiser)
        pipeline.settings = settings
        return pipeline

    @property
    def steps(self) -> int:
        """The number of reverse steps: as set, or the method's default, or T if that is less."""
        default = STEPS_OF.get(self._named_sampler or "", DEFAULT_STEPS)
        return self.settings.steps or min(default, self.denoiser.schedule.steps or default)

    @property
    def _named_sampler(self) -> str | None:
        """The sampler that is set, or that a setting of its own implies; None if it is left to the number of steps."""
        if self.settings.sampler != "auto":
            return self.settings.sampler
        return next((sampler for name, sampler in OPTION_OF.items() if getattr(self.settings, name) is not None), None)

    @property
    def picked(self) -> bool:
        """Whether `auto` picked the sampler."""
        return self._named_sampler is None

    @property
    def method(self) -> Choice:
        """The sampler and the grid that are used: as set, or picked by the number of steps."""
        named = self._named_sampler
        choice = Choice(named, "trailing") if named else auto_choice(self.steps)
        return Choice(choice.sampler, self.settings.grid or choice.grid)

    @property
    def variance(self) -> str:
        """The variance of a reverse step: as set, or learned if the model learned it, otherwise the posterior's."""
        return self.settings.variance or ("learned" if self.denoiser.settings.learned_variance else "posterior")

    @property
    def clip(self) -> str:
        """How x_0_hat is kept in range: as set, or by the data."""
        return self.settings.clip_for(len(self.shape))

    def sample(
        self,
        n: int | None = None,
        seed: int = 0,
        seeds: Sequence[int] | None = None,
        label: str | Sequence[str | None] | None = None,
        prompt: str | Sequence[str | None] | None = None,
        map: Any = None,
        image: Any = None,
        conditions: Mapping[str, Any] | None = None,
        guidance: float | Mapping[str, float] | None = None,
        classifier: Callable[[Tensor, Time], Tensor] | None = None,
        batch: int | None = None,
        on_state: StateCallback | None = None,
    ) -> Samples:
        """n new pictures, or one for each of `seeds`, whose number n must be if both are given.

        label, prompt, map, image: one for all or a list of one each; maps and images are paths or uint8 arrays (H, W[, C]), for
        inpainting a tuple (picture, mask). conditions: the same by name, for conditions of your own. What is not given is null,
        but for classes, which take turns if nothing at all is given. guidance: w for all conditions or by name.
        classifier: log p(y | x_t) (N,) of (x_t, t), for classifier guidance (weigh it yourself). on_state: called with every state
        of every batch. Raises ConfigurationError for what the model was not trained with.
        """
        chosen = {"class": label, "text": prompt, "map": map, "image": image, **(conditions or {})}
        words = ("class", "text")  # of an image, a tuple is a picture and its mask
        chosen |= {name: list(chosen[name]) for name in words if isinstance(chosen[name], tuple)}
        given = {name: value for name, value in chosen.items() if value is not None}
        if seeds is not None and n not in (None, len(seeds)):
            raise ConfigurationError(
                f"got n = {n} and {len(seeds)} seeds, expected a seed for each picture; leave n out, or give {n} seeds"
            )
        if n is None:
            n = max((len(v) for v in given.values() if isinstance(v, list)), default=DEFAULT_COUNT)
        if n < 1:
            raise ConfigurationError(f"give n >= 1, got {n}")
        own_seeds = list(seeds) if seeds is not None else derive_seeds(seed, n)
        asked = self.ask(len(own_seeds), given)
        pipeline = self.with_settings(guidance=guidance)
        parts = list(pipeline.stream(own_seeds, asked, batch, on_state, classifier))
        return Samples(
            np.concatenate([part.pictures for part in parts]),
            own_seeds,
            [own for part in parts for own in part.asked],
            parts[0].record,
        )

    def ask(self, n: int, given: Mapping[str, Any], guidance: Sequence[float] | None = None) -> Asked:
        """What is asked of n pictures. given: by condition name one input for all, or a list of n.

        Raises ConfigurationError for a condition that the model was not trained with and for a list of another length.
        """
        if not given and self.classes:
            given = {"class": [self.classes[i % len(self.classes)] for i in range(n)]}
        values, notes, words = {}, list[str](), [dict[str, Any]() for _ in range(n)]
        for name, value in given.items():
            self._check_condition(name)
            inputs = list(value) if isinstance(value, list) else [value] * n
            if len(inputs) != n:
                raise ConfigurationError(f"{name}: {len(inputs)} inputs for {n} pictures; give one, or one each")
            values[name] = self.denoiser.encoders[name].read(inputs, notes)
            for own, item in zip(words, inputs, strict=True):
                own |= {} if item is None else {name: in_words(item)}
        if guidance is not None:
            words = [own | {"guidance": w} for own, w in zip(words, guidance, strict=True)]
        return Asked(values, words, None if guidance is None else list(guidance), list(dict.fromkeys(notes)))

    def _check_condition(self, name: str) -> None:
        if name not in self.conditions:
            accepts = ", ".join(self.conditions) or "nothing (it is unconditional)"
            raise ConfigurationError(f"this model was not trained with {name}; it accepts: {accepts}")

    def stream(
        self,
        seeds: Sequence[int],
        asked: Asked | None = None,
        batch: int | None = None,
        on_state: StateCallback | None = None,
        classifier: Callable[[Tensor, Time], Tensor] | None = None,
    ) -> Iterator[Samples]:
        """`sample` in batches that fit into memory, each yielded when it is done.

        For long work the kernels (`speed.fastest_kernels`) and the batch are the fastest here; the pictures are the same but for rounding.
        """
        if len(self.shape) != 3:
            raise ConfigurationError(
                f"this model makes points of shape {self.shape}, not pictures; use Pipeline.states from Python"
            )
        if not seeds:
            raise ConfigurationError("there is nothing to make: give n >= 1, or at least one seed")
        asked = asked or self.ask(len(seeds), {})
        fastest = self.with_denoiser(fastest_kernels(self.denoiser, self.shape, self.evaluations(asked)))
        batch = batch or fastest.fitting_batch(asked)
        for start in range(0, len(seeds), batch):
            part = slice(start, start + batch)
            states = fastest.states(seeds[part], asked.part(part), classifier)
            x_0 = last_state(watched(states, on_state)).x_t
            yield Samples(
                self.finish(x_0, asked.part(part)), list(seeds[part]), asked.words[part], fastest.sampling_record()
            )

    def finish(self, x_0: Tensor, asked: Asked) -> np.ndarray:
        """The last state of a batch (N, C, H, W) as uint8 (N, H, W, C), after what its encoders do to a result."""
        for name, values in asked.values.items():
            x_0 = self.denoiser.encoders[name].finish(x_0, values)
        return to_uint8(x_0)

    def states(
        self,
        seeds: Sequence[int],
        asked: Asked | None = None,
        classifier: Callable[[Tensor, Time], Tensor] | None = None,
    ) -> Iterator[SampleState]:
        """The states from noise to data of one batch, as a generator that may be stopped at any time."""
        denoiser = self.conditioned(len(seeds), asked, classifier)
        return sample_states(self.sampler(), denoiser, self.times(), seeds, self.shape, self.device)

    def sampler(self) -> Sampler:
        """The method, built."""
        settings = self.settings
        own = {name: getattr(settings, name) for name in ("eta", "tolerance") if getattr(settings, name) is not None}
        return build_sampler(self.method.sampler, Options(self.variance, **own))

    def times(self) -> Tensor:
        """The times that are visited, from 1 (or just below, with grids of older code) to 0."""
        return time_grid(self.method.grid, self.denoiser.schedule, self.steps)

    def conditioned(
        self, n: int, asked: Asked | None = None, classifier: Callable[[Tensor, Time], Tensor] | None = None
    ) -> DenoiserLike:
        """The denoiser of n pictures as a sampler sees it: with what is asked of them, guided and clipped as set."""
        guided: DenoiserLike = self.guided(n, asked or Asked.nothing(n))
        if classifier is not None:
            guided = ClassifierGuided(guided, classifier)
        return Clipped(guided, self.clip, self.settings.dynamic_quantile)

    @torch.no_grad()
    def guided(self, n: int, asked: Asked) -> Guided:
        """The denoiser with the conditions that are asked for, guided as set."""
        given = [name for name in self.conditions if name in asked.values]
        chain = [
            self.denoiser.encode({name: asked.values[name] for name in given[:i]}, n) for i in range(len(given) + 1)
        ]
        settings = self.settings
        return Guided(
            self.denoiser,
            chain,
            [self._weight(name, asked) for name in given],
            settings.guidance_rescale,
            settings.guidance_interval,
        )

    def _weight(self, name: str, asked: Asked) -> float | Tensor:
        guidance = self.settings.guidance
        if asked.guidance is not None:
            return torch.tensor(asked.guidance)
        return guidance.get(name, 1.0) if isinstance(guidance, dict) else guidance

    def sampling_record(self) -> dict[str, Any]:
        """How pictures are made now, as it is written into each of them."""
        settings, plain = self.settings, SampleSettings()
        method = self.method
        own: dict[str, Any] = {
            "sampler": method.sampler,
            "grid": method.grid,
            "steps": self.steps,
            "clip": self.clip,
            "precision": way_of(self.denoiser).precision,
        }
        for name, sampler in OPTION_OF.items():
            if method.sampler == sampler:
                value = self.variance if name == "variance" else getattr(settings, name)
                own |= {} if value is None else {name: value}
        if self.clip == "dynamic":
            own["dynamic_quantile"] = settings.dynamic_quantile
        for name in ("guidance", "guidance_rescale", "guidance_interval"):
            if getattr(settings, name) != getattr(plain, name):
                own[name] = getattr(settings, name)
        return own | self.record

    def fitting_batch(self, asked: Asked) -> int:
        """A batch whose activations take at most a quarter of the free memory, 128 at most: memory stays flat in n.

        For long work the fastest such batch, by measurement (`speed.fastest_batch`).
        """
        free = available_memory()
        if self.device.type == "cuda":
            free = float(torch.cuda.mem_get_info(self.device)[0])
        per_picture = self._passes(asked) * activation_bytes(self.denoiser, self.shape, self.denoiser.encode({}, 1))
        most = int(max(1, min(LARGEST_BATCH, free / 4 // per_picture)))
        long = self.evaluations(asked) >= MANY_EVALUATIONS
        return fastest_batch(self.denoiser, self.shape, most) if long else most

    def evaluations(self, asked: Asked) -> int:
        """How many estimates of a picture all of it takes."""
        return len(asked) * self.steps * self._passes(asked)

    def _passes(self, asked: Asked) -> int:
        """How many estimates of a picture guidance takes at a step, inside its interval."""
        weights = [self._weight(name, asked) for name in self.conditions if name in asked.values]
        rescale, interval = self.settings.guidance_rescale, self.settings.guidance_interval
        guided = Guided(self.denoiser, [Cond()] * (len(weights) + 1), weights, rescale, interval)
        return len(guided.needed(guided.factors(interval[1])))


def with_conditions(denoiser: Denoiser, pictures: np.ndarray, values: Mapping[str, np.ndarray]) -> np.ndarray:
    """Pictures (N, H, W, C) uint8 with the values of their conditions: (N, H', W', 3), pictures beside them, words below."""
    rgb = np.stack([np.asarray(to_image(picture).convert("RGB")) for picture in pictures])
    beside, words = [rgb], [list[str]() for _ in pictures]
    for name, encoder in denoiser.encoders.items():
        if name in values:
            drawn, texts = encoder.show(values[name])
            beside += [] if drawn is None else [drawn]
            for own, text in zip(words, texts or [], strict=bool(texts)):
                own.append(text)
    tiles = np.concatenate(beside, axis=2)
    return captioned(tiles, [" | ".join(own) for own in words]) if any(map(any, words)) else tiles


def in_words(item: Any) -> str:
    """An input as a record tells it: text and names as they are, files by name, arrays as such."""
    if isinstance(item, tuple):
        return ", ".join(map(in_words, item))
    return "array" if isinstance(item, np.ndarray) else item.name if isinstance(item, Path) else str(item)


def watched(states: Iterator[SampleState], on_state: StateCallback | None) -> Iterator[SampleState]:
    """The same states, each shown to the callback before it is used."""
    for state in states:
        if on_state is not None:
            on_state(state)
        yield state


@torch.no_grad()
def activation_bytes(denoiser: Denoiser, shape: Sequence[int], cond: Cond) -> int:
    """An upper bound of what one picture needs on its way through: the size of all outputs of the network's parts together."""
    total, denoiser = 0, watchable(denoiser)

    def count(module: nn.Module, args: Any, output: Any) -> None:
        nonlocal total
        if isinstance(output, Tensor):
            total += output.numel() * output.element_size()

    leaves = [module for module in denoiser.network.modules() if not list(module.children())]
    handles = [module.register_forward_hook(count) for module in leaves]
    try:
        denoiser(torch.zeros(1, *shape, device=next(denoiser.parameters()).device), 1.0, cond)
    finally:
        for handle in handles:
            handle.remove()
    return max(1, total)


def load(run: str | Path, checkpoint: str | None = None, raw_weights: bool = False, device: str = "auto") -> Pipeline:
    """The model of a run folder or of a checkpoint folder.

    checkpoint: a step, "step-N" or a folder; default: the newest. raw_weights: the weights of training instead of their average.
    Raises CheckpointError for anything that is missing, damaged or foreign.
    """
    found = find_checkpoint(Path(run), checkpoint)
    part = "model" if raw_weights else "ema"
    denoiser = restore_denoiser(found, part).to(pick_device(device))
    if found.config.train.channels_last and len(found.shape) == 3:
        denoiser = denoiser.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    precision = found.config.train.precision
    denoiser = with_way(denoiser, Way() if precision == "auto" else Way(precision))
    record = {"weights": "raw" if raw_weights else "ema", "model": found.hash(part), "checkpoint": found.path.name}
    return Pipeline(denoiser, found.shape, found.config.sample, record, found.config.data.background)


def restore_denoiser(found: Checkpoint, part: str) -> Denoiser:
    """The denoiser of a checkpoint with the weights of its part "model" or "ema"."""
    denoiser = build_denoiser(found.config, found.shape)
    load_weights(denoiser, found.tensors(part), found.path / f"{part}.safetensors")
    return denoiser.requires_grad_(False)

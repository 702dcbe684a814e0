"""The model card of an exported model, README.md with a YAML head: what it is, how it was made, how to use it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .. import __version__
from ..settings.config import Config
from .files import CARD, GRID

SETTINGS = ("schedule", "diffusion", "network", "conditions", "loss", "train", "sample")
KINDS = {1: "grey", 2: "grey and alpha", 3: "colour", 4: "colour and alpha"}
SHOWN_CLASSES = 30

UNCONDITIONAL = """\
from diffusers import DDPMPipeline

pipeline = DDPMPipeline.from_pretrained({name!r})
pictures = pipeline(batch_size=4, num_inference_steps={steps}).images
"""
BY_CLASS = """\
import torch
from diffusers import DDPMPipeline

pipeline = DDPMPipeline.from_pretrained({name!r})
unet, scheduler = pipeline.unet, pipeline.scheduler
scheduler.set_timesteps({steps})
x, labels = torch.randn(4, {channels}, {height}, {width}), torch.tensor({labels})
with torch.no_grad():
    for t in scheduler.timesteps:
        x = scheduler.step(unet(x, t, class_labels=labels).sample, t, x).prev_sample
pictures = pipeline.numpy_to_pil((x / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy())
"""


@dataclass(frozen=True)
class CardFacts:
    """What a card tells beside the configuration. classes: empty for an unconditional model; caption: of the samples, if there are any."""

    name: str
    shape: Sequence[int]
    classes: list[str]
    origin: str
    data: Mapping[str, Any]
    licence: str
    steps: int
    notes: list[str]
    caption: str | None


def write_card(config: Config, facts: CardFacts) -> str:
    """The text of the card."""
    head = yaml.safe_dump(card_head(facts), sort_keys=False, allow_unicode=True, width=120)
    settings = {name: value for name, value in config.model_dump(mode="json").items() if name in SETTINGS}
    if settings["schedule"]["betas"]:
        settings["schedule"]["betas"] = f"({len(settings['schedule']['betas'])} numbers, see the scheduler)"
    channels, height, width = facts.shape
    kind = "A class-conditional" if facts.classes else "An unconditional"
    lines = [
        f"---\n{head}---\n",
        f"# {facts.name}\n",
        f"{kind} denoising diffusion model of pictures of {height}x{width} pixels in {KINDS[channels]}, "
        f"made with alphabar {__version__} and written for diffusers.\n",
        *([f"![{facts.caption}]({GRID})\n\n{facts.caption}.\n"] if facts.caption else []),
        "## Use\n",
        f"```python\n{usage(facts)}```\n",
        *class_lines(facts),
        "## How it was made\n",
        *(f"- {line}" for line in origin_lines(config, facts)),
        f"\n```yaml\n{yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, width=120)}```\n",
        *(["## Good to know\n", *(f"- {note}" for note in facts.notes)] if facts.notes else []),
    ]
    return "\n".join(lines).rstrip() + "\n"


def card_head(facts: CardFacts) -> dict[str, Any]:
    """The YAML head. Its entry `alphabar` carries the names of the classes back to `alphabar import`."""
    kind = "class-conditional" if facts.classes else "unconditional-image-generation"
    head: dict[str, Any] = {
        "license": facts.licence,
        "library_name": "diffusers",
        "tags": ["diffusers", "alphabar", kind],
    }
    if not facts.classes:
        return head | {"pipeline_tag": kind, "alphabar": {"version": __version__}}
    own = {"version": __version__, "classes": list(facts.classes), "null_class": len(facts.classes)}
    return head | {"alphabar": own}


def usage(facts: CardFacts) -> str:
    """A few lines of Python that make four pictures."""
    channels, height, width = facts.shape
    labels = [i % len(facts.classes) for i in range(4 if facts.classes else 0)]
    return (BY_CLASS if facts.classes else UNCONDITIONAL).format(
        name=facts.name, steps=facts.steps, channels=channels, height=height, width=width, labels=labels
    )


def class_lines(facts: CardFacts) -> list[str]:
    """Which number stands for which class, and which for none."""
    if not facts.classes:
        return []
    names = [f"{i} {name}" for i, name in enumerate(facts.classes)]
    more = f" ... {names[-1]}" if len(names) > SHOWN_CLASSES else ""
    null = len(facts.classes)
    return [
        f'The classes: {", ".join(names[:SHOWN_CLASSES])}{more}. Number {null} is the null class, "not given": classifier-free '
        f"guidance of weight w is u + w (c - u), with u the output for {null} and c that for a class. `DDPMPipeline` itself "
        "passes no class on, so its parts are used here.\n"
    ]


def origin_lines(config: Config, facts: CardFacts) -> list[str]:
    """Weights, training and data, a line each."""
    train, data = config.train, facts.data
    source = Path(str(data.get("source") or config.data.source)).name  # the rest of a path is the maker's own business
    counted = f", {data['count']} pictures of {data.get('sizes') or 'one size'}" if data.get("count") else ""
    return [
        f"Weights: {facts.origin}.",
        f"Training: {train.steps or 0} steps of {train.batch_size} pictures, seed {config.seed}.",
        f"Data: {source}{counted}.",
    ]


def read_head(folder: Path) -> dict[str, Any]:
    """What alphabar wrote of itself into the head of a folder's card; empty if there is no such card."""
    try:
        text = (folder / CARD).read_text(encoding="utf-8")
        head = yaml.safe_load(text.split("---\n")[1]) if text.startswith("---\n") else {}
        own = head.get("alphabar") if isinstance(head, dict) else None
    except (OSError, UnicodeDecodeError, IndexError, yaml.YAMLError):
        return {}
    return own if isinstance(own, dict) else {}

"""Runs with random weights, and the noise of our samplers for those of diffusers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from alphabar.generation.pipeline import Pipeline, load
from alphabar.model import build_denoiser
from alphabar.runs.checkpoint import save_checkpoint
from alphabar.runs.folder import RunFolder
from alphabar.samplers.base import last_state, seeded_noises
from alphabar.settings.config import Config

from ..training.small import config

SEEDS = [3, 14]
CLASSES = {"class": {"classes": ["cat", "dog", "newt"]}}


def random_tensors(module: torch.nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """Weights in which nothing is at its initial value, norms above all."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in module.state_dict().items()
    }


def make_run(path: Path, shape: Sequence[int] = (1, 8, 8), **sections: object) -> Path:
    """A run folder of a tiny model with random weights; those of training and their average differ."""
    settings = config(**sections)
    denoiser = build_denoiser(settings, shape)
    run = RunFolder.create(path, "made by a test")
    run.write_config(settings)
    weights = {"model": random_tensors(denoiser, 1), "ema": random_tensors(denoiser, 2), "optimizer": {}}
    save_checkpoint(run, 6, settings, tuple(shape), "", weights)
    return path


def config_of(path: Path) -> Config:
    """The configuration of a run."""
    return RunFolder.open(path).config


def ancestral(run: Path, steps: int, labels: Sequence[str | None] | None = None, **options: object) -> Tensor:
    """Our pictures of SEEDS, float32 in about [-1, 1], by the method of DDPMScheduler."""
    pipeline = load(run, device="cpu", **options).with_settings(sampler="ancestral", steps=steps)  # type: ignore[arg-type]
    return pictures(pipeline, labels)


def pictures(pipeline: Pipeline, labels: Sequence[str | None] | None = None) -> Tensor:
    """The pictures of SEEDS, float32."""
    given = {} if labels is None else {"class": list(labels)}
    return last_state(pipeline.states(SEEDS, pipeline.ask(len(SEEDS), given))).x_t


@pytest.fixture
def same_noise(monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequence[int]], Callable[[], Tensor]]:
    """Give diffusers the noise that our samplers have for SEEDS; returns a function that draws the next one."""
    diffusers = pytest.importorskip("diffusers")

    def use(shape: Sequence[int]) -> Callable[[], Tensor]:
        drawn: Iterator[Tensor] = (seeded_noises(SEEDS, shape)(i)() for i in range(10**6))
        for module in (diffusers.schedulers.scheduling_ddpm, diffusers.pipelines.ddpm.pipeline_ddpm):
            monkeypatch.setattr(module, "randn_tensor", lambda *args, **kwargs: next(drawn))
        return lambda: next(drawn)

    return use

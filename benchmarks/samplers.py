"""Samplers side by side: the same model, the same noise, the same number of network calls. Prints the tables of docs/en/samplers.md.

python benchmarks/samplers.py RUN [--n 200] [--calls 5,10,20,50] [--classifier FILE]      a class model of Fashion-MNIST

For each method and number of calls: the kernel distance (x 1000) of the samples' features to those of as many test pictures, the share
that a classifier labels as asked, and the root mean square distance to the exact solution from the same noise (deterministic
methods; pictures in [-1, 1]). The features are those of `alphabar extractor fashion-mnist --pictures 60000 --out fashion-60000.safetensors`; the test set is used here only to
compare samplers of one model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

import alphabar
from alphabar.data.builtin_sets import load_fashion_mnist
from alphabar.data.pictures import to_signed, to_uint8
from alphabar.evaluation.classifier import load_classifier
from alphabar.evaluation.distances import kernel_distance
from alphabar.evaluation.extractors import features
from alphabar.pipeline import Pipeline
from alphabar.randomness import derive_seeds, generator
from alphabar.samplers.base import last_state
from alphabar.samplers.methods import METHODS, Options, build_sampler
from conditions import FILE, labels

REFERENCE = {"sampler": "unipc", "grid": "log_snr", "steps": 200}


def told(distance: tuple[float, float]) -> str:
    """The kernel distance x 1000 with its error."""
    return f"{1000 * distance[0]:.0f} ± {1000 * distance[1]:.0f}"


def make(pipeline: Pipeline, seeds: list[int], batch: int = 100) -> np.ndarray:
    """Pictures (n, 28, 28, 1) uint8 of the classes in turn."""
    asked = pipeline.ask(len(seeds), {})
    parts = [slice(i, i + batch) for i in range(0, len(seeds), batch)]
    return np.concatenate([to_uint8(last_state(pipeline.states(seeds[p], asked.part(p))).x_t) for p in parts])


def main(
    run: str,
    n: int = 200,
    calls: str = "5,10,20,50",
    classifier: Path = FILE,
    methods: Annotated[str, typer.Option(help="Names, or all.")] = "all",
    grids: str = "trailing,log_snr,karras",
) -> None:
    """Measure."""
    judge, pipeline = load_classifier(classifier), alphabar.load(run)
    test, _, _ = load_fashion_mnist(part="t10k")
    chosen = generator(0, "reference").permutation(len(test))
    real, other = (features(judge, test[chosen[i : i + n]]) for i in (0, n))
    print(f"real against real at n = {n}: {told(kernel_distance(other, real))}")
    seeds, wanted = derive_seeds(0, n), np.arange(n) % 10
    exact = to_signed(make(pipeline.with_settings(**REFERENCE), seeds))
    print("| sampler | grid | " + " | ".join(f"{c} calls" for c in calls.split(",")) + " |")
    print("| --- | --- |" + " --- |" * len(calls.split(",")))
    for name in METHODS if methods == "all" else methods.split(","):
        if name == "adaptive":
            continue
        sampler = build_sampler(name, Options())
        for grid in grids.split(","):
            cells = []
            for count in map(int, calls.split(",")):
                own = pipeline.with_settings(sampler=name, grid=grid, steps=max(1, count // sampler.calls))
                made = make(own, seeds)
                kernel = told(kernel_distance(features(judge, made), real))
                right = (labels(judge, made) == wanted).mean()
                far = "" if sampler.stochastic else f", {(to_signed(made) - exact).square().mean().sqrt():.3f}"
                cells.append(f"{kernel}, {right:.0%}{far}")
            print(f"| {name} | {grid} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    typer.run(main)

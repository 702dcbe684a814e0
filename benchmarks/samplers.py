"""Samplers side by side: the same model, the same noise, the same number of network calls. Prints the tables of docs/en/samplers.md.

python benchmarks/samplers.py RUN [--n 200] [--calls 5,10,20,50] [--classifier FILE]      a class model of Fashion-MNIST

For each method and number of calls: the kernel distance (x 1000) of the samples' features to those of as many test pictures, the share
that a classifier labels as asked, and the root mean square distance to the exact solution from the same noise (deterministic
methods; pictures in [-1, 1]). The features are those of the classifier of benchmarks/conditions.py; the test set is used here only to
compare samplers of one model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor

import alphabar
from alphabar.data.builtin_sets import load_fashion_mnist
from alphabar.data.pictures import to_signed, to_uint8
from alphabar.pipeline import Pipeline
from alphabar.randomness import derive_seeds, generator
from alphabar.samplers.base import last_state
from alphabar.samplers.methods import METHODS, Options, build_sampler
from conditions import fashion_classifier

REFERENCE = {"sampler": "unipc", "grid": "log_snr", "steps": 200}


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """The unbiased squared MMD of features (n, d) and (m, d) with the kernel (x y / d + 1)^3 (Binkowski et al. 2018)."""

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    n, m = len(a), len(b)
    aa, bb = kernel(a, a), kernel(b, b)
    within = (aa.sum() - aa.trace()) / (n * (n - 1)) + (bb.sum() - bb.trace()) / (m * (m - 1))
    return float(within - 2 * kernel(a, b).mean())


def make(pipeline: Pipeline, seeds: list[int], batch: int = 100) -> np.ndarray:
    """Pictures (n, 28, 28, 1) uint8 of the classes in turn."""
    asked = pipeline.ask(len(seeds), {})
    parts = [slice(i, i + batch) for i in range(0, len(seeds), batch)]
    return np.concatenate([to_uint8(last_state(pipeline.states(seeds[p], asked.part(p))).x_t) for p in parts])


def main(
    run: str,
    n: int = 200,
    calls: str = "5,10,20,50",
    classifier: Path | None = None,
    methods: Annotated[str, typer.Option(help="Names, or all.")] = "all",
    grids: str = "trailing,log_snr,karras",
) -> None:
    """Measure."""
    model, pipeline = fashion_classifier(classifier), alphabar.load(run)
    test, _, _ = load_fashion_mnist(part="t10k")
    chosen = generator(0, "reference").permutation(len(test))
    scale = model.features(test[chosen]).std(0).clamp(min=1e-3)  # the same for all
    real, other = (model.features(test[chosen[i : i + n]]) / scale for i in (0, n))
    print(f"real against real at n = {n}: {1000 * kernel_distance(real, other):.1f}")
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
                kernel = 1000 * kernel_distance(model.features(made) / scale, real)
                right = (model.labels(made) == wanted).mean()
                far = "" if sampler.stochastic else f", {(to_signed(made) - exact).square().mean().sqrt():.3f}"
                cells.append(f"{kernel:.1f}, {right:.0%}{far}")
            print(f"| {name} | {grid} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    typer.run(main)

"""Samplers side by side: the same model, the same noise. Prints the tables of docs/en/samplers.md and of RESULTS.md.

python benchmarks/samplers.py table RUN [--n 200] [--calls 5,10,20,50] [--classifier FILE]      a class model of Fashion-MNIST
python benchmarks/samplers.py adaptive RUN [--tolerances 0.2,0.05,0.01]                          the same for the solver that chooses its steps
python benchmarks/samplers.py quality RUN OUT.jsonl --data TEST --extractor FILE                quality of 10 calls beside 1,000, any run
python benchmarks/samplers.py quality-table OUT.jsonl

A cell of `table` and `adaptive` holds the kernel distance (x 1000) of the samples' features to those of as many test pictures, the share
that a classifier labels as asked, and the root mean square distance to the exact solution from the same noise (deterministic
methods; pictures in [-1, 1]). The features are those of `alphabar extractor fashion-mnist --pictures 60000 --out fashion-60000.safetensors`;
the test set is used here only to compare samplers of one model.

`quality` measures N samples of each of --samplers, for each seed, against real pictures, and adds a line to OUT.jsonl for each, leaving out
what it holds already: a series may take several sittings. Its seconds are those of one batch, in turns. Where TEST is small, --whole
takes up to N of it as the reference although no others are left for a floor.
"""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from side_by_side import in_turns

import alphabar
from alphabar.data.builtin_sets import load_fashion_mnist
from alphabar.data.pictures import PictureSet, to_signed, to_uint8
from alphabar.diffusion.denoiser import DenoiserLike
from alphabar.engine.speed import settle_sampling
from alphabar.engine.ways import way_of
from alphabar.evaluation.classifier import load_classifier
from alphabar.evaluation.distances import kernel_distance
from alphabar.evaluation.extractors import Extractor, features, load_extractor
from alphabar.evaluation.pictures import real_pictures, take
from alphabar.evaluation.quality import REAL_AT_MOST, Distances, drawn
from alphabar.evaluation.run_evaluation import asked_of, real_of_run, samples_of
from alphabar.generation.pipeline import Pipeline
from alphabar.randomness import derive_seeds, generator
from alphabar.runs.checkpoint import find_checkpoint
from alphabar.samplers.base import last_state, sample_states
from alphabar.samplers.methods import METHODS, Options, build_sampler
from conditions import FILE, labels

app = typer.Typer(add_completion=False, help=__doc__)
REFERENCE = {"sampler": "unipc", "grid": "log_snr", "steps": 200}
BATCH = 100


class Bench:
    """What one cell needs: the judge, the features of real pictures, the noise, and the exact solution from it."""

    def __init__(self, run: str, n: int, classifier: Path) -> None:
        self.judge, self.pipeline = load_classifier(classifier), alphabar.load(run)
        test, _, _ = load_fashion_mnist(part="t10k")
        chosen = generator(0, "reference").permutation(len(test))
        self.real, other = (features(self.judge, test[chosen[i : i + n]]) for i in (0, n))
        print(f"real against real at n = {n}: {told(kernel_distance(other, self.real))}")
        self.seeds, self.wanted = derive_seeds(0, n), np.arange(n) % 10
        self.exact = to_signed(self.make(self.pipeline.with_settings(**REFERENCE)))

    def make(self, pipeline: Pipeline) -> np.ndarray:
        """Pictures (n, 28, 28, 1) uint8 of the classes in turn."""
        asked = pipeline.ask(len(self.seeds), {})
        parts = [slice(i, i + BATCH) for i in range(0, len(self.seeds), BATCH)]
        return np.concatenate([to_uint8(last_state(pipeline.states(self.seeds[p], asked.part(p))).x_t) for p in parts])

    def cell(self, made: np.ndarray, stochastic: bool) -> str:
        """Kernel distance, share labelled as asked, distance to the exact solution."""
        kernel = told(kernel_distance(features(self.judge, made), self.real))
        right = (labels(self.judge, made) == self.wanted).mean()
        far = "" if stochastic else f", {(to_signed(made) - self.exact).square().mean().sqrt():.3f}"
        return f"{kernel}, {right:.0%}{far}"


def told(distance: tuple[float, float]) -> str:
    """The kernel distance x 1000 with its error."""
    return f"{1000 * distance[0]:.0f} ± {1000 * distance[1]:.0f}"


@app.command()
@torch.no_grad()
def table(
    run: str,
    n: int = 200,
    calls: str = "5,10,20,50",
    classifier: Path = FILE,
    methods: Annotated[str, typer.Option(help="Names, or all.")] = "all",
    grids: str = "trailing,log_snr,karras",
) -> None:
    """Each method on each grid with each number of network calls."""
    bench = Bench(run, n, classifier)
    print("| sampler | grid | " + " | ".join(f"{c} calls" for c in calls.split(",")) + " |")
    print("| --- | --- |" + " --- |" * len(calls.split(",")))
    chosen = [name for name in METHODS if name != "adaptive"] if methods == "all" else methods.split(",")
    for name, grid in itertools.product(chosen, grids.split(",")):
        sampler = build_sampler(name, Options())
        own = [
            bench.pipeline.with_settings(sampler=name, grid=grid, steps=max(1, int(count) // sampler.calls))
            for count in calls.split(",")
        ]
        cells = [bench.cell(bench.make(pipeline), sampler.stochastic) for pipeline in own]
        print(f"| {name} | {grid} | " + " | ".join(cells) + " |", flush=True)


class Counted:
    """A denoiser that counts how often it is asked about a picture."""

    def __init__(self, denoiser: DenoiserLike) -> None:
        self.denoiser, self.schedule, self.calls = denoiser, denoiser.schedule, 0

    def __call__(self, x_t: torch.Tensor, t: Any) -> Any:
        """What it says."""
        self.calls += 1
        return self.denoiser(x_t, t)


@app.command()
@torch.no_grad()
def adaptive(
    run: str, n: int = 200, tolerances: str = "0.2,0.05,0.01", classifier: Path = FILE, steps: int = 3
) -> None:
    """The adaptive solver by its tolerance, with the network calls that it took."""
    bench = Bench(run, n, classifier)
    print("| tolerance | calls of a batch | |\n| --- | --- | --- |")
    for tolerance in map(float, tolerances.split(",")):
        own, taken, made = bench.pipeline.with_settings(sampler="adaptive", tolerance=tolerance, steps=steps), [], []
        asked = own.ask(n, {})
        for part in (slice(i, i + BATCH) for i in range(0, n, BATCH)):
            counted = Counted(own.conditioned(len(bench.seeds[part]), asked.part(part)))
            states = sample_states(own.sampler(), counted, own.times(), bench.seeds[part], own.shape)
            made.append(to_uint8(last_state(states).x_t))
            taken.append(counted.calls)
        print(f"| {tolerance:g} | {np.mean(taken):.0f} | {bench.cell(np.concatenate(made), False)} |", flush=True)


@app.command()
def quality(
    run: Path,
    out: Path,
    data: Annotated[str, typer.Option()],
    extractor: Annotated[Path, typer.Option()],
    samplers: Annotated[str, typer.Option(help="NAME:STEPS or NAME/GRID:STEPS, ...")] = "auto:10,ancestral:1000",
    n: int = 2000,
    seeds: str = "0,1,2",
    whole: Annotated[bool, typer.Option("--whole", help="A reference of up to N pictures, without a floor.")] = False,
    precision: Annotated[str | None, typer.Option(help="As `alphabar sample`: None is that of the training.")] = None,
) -> None:
    """Distances of samples to real pictures, for each sampler and seed, into lines of OUT."""
    judge, pipeline = load_extractor(extractor), alphabar.load(run)
    denoiser, _ = settle_sampling(pipeline.denoiser, pipeline.shape, n * pipeline.steps, precision)
    pipeline = pipeline.with_denoiser(denoiser)
    chosen = {text: of_text(pipeline, text) for text in samplers.split(",")}
    own = {
        "run": run.name,
        "model": pipeline.record["model"],
        "data": data,
        "n": n,
        "whole": whole,
        "extractor": judge.hash,
        "arithmetic": way_of(pipeline.denoiser).precision,
    }
    known = {(line["sampler"], line["seed"]) for line in lines_of(out) if own.items() <= line.items()}
    missing = [pair for pair in itertools.product(map(int, seeds.split(",")), chosen) if pair[::-1] not in known]
    seconds = seconds_of(chosen)
    for seed, text in missing:
        real, floor = compared_with(run, data, judge, n, seed, whole)
        reference = features(judge, np.asarray(real.pictures[:]))
        made = samples_of(chosen[text], asked_of(pipeline, real, seed), seed).pictures
        line = own | {"sampler": text, "seed": seed, "seconds": seconds[text], "reference": len(real)}
        line |= vars(Distances.between(features(judge, made), reference))
        line |= {
            "floor": floor and Distances.between(features(judge, np.asarray(floor.pictures[:])), reference).frechet
        }
        with out.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(line, flush=True)


def compared_with(
    run: Path, data: str, judge: Extractor, n: int, seed: int, whole: bool
) -> tuple[PictureSet, PictureSet | None]:
    """The reference and the floor; of `whole`, up to n pictures that the extractor has not seen, and no floor."""
    found = find_checkpoint(run)
    if not whole:
        real, _ = real_of_run(found, data, None, judge, n, seed, None)
        return real.reference, real.floor
    pictures = real_pictures(found, data, None, REAL_AT_MOST, seed, None).data
    return take(pictures, drawn(pictures, judge, seed, "reference")[0][:n]), None


def of_text(pipeline: Pipeline, text: str) -> Pipeline:
    """NAME:STEPS or NAME/GRID:STEPS -> the pipeline with these."""
    how, _, steps = text.partition(":")
    name, _, grid = how.partition("/")
    return pipeline.with_settings(sampler=name, grid=grid or None, steps=int(steps))


def seconds_of(chosen: dict[str, Pipeline], batch: int = 64) -> dict[str, float]:
    """Seconds for one picture of a batch: the median of a sampler's steps, in turns with the others', times their number."""
    runs = {text: iterate(pipeline, batch) for text, pipeline in chosen.items()}
    taken = in_turns({text: lambda run=run: next(run) for text, run in runs.items()}, rounds=9, quiet=True)
    return {text: statistics.median(taken[text]) * pipeline.steps / batch for text, pipeline in chosen.items()}


def iterate(pipeline: Pipeline, batch: int) -> Iterator[Any]:
    """State after state, again and again."""
    while True:
        yield from pipeline.states(range(batch), pipeline.ask(batch, {}))


def lines_of(path: Path) -> list[dict[str, Any]]:
    """What was measured before."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


@app.command()
def quality_table(out: Path) -> None:
    """What was measured, as Markdown: means over the seeds, with each seed's value behind."""
    print("| run | sampler, steps | N, seeds | Frechet distance | kernel distance x 1000 | floor | seconds a picture |")
    print("| --- | --- | --- | --- | --- | --- | --- |")

    def order(line):
        return tuple(line[key] for key in ("run", "model", "extractor", "data", "sampler", "n", "whole"))

    for (run, _, _, _, sampler, n, _), found in itertools.groupby(sorted(lines_of(out), key=order), order):
        lines = list(found)
        mean = lambda name, lines=lines: statistics.mean(line[name] for line in lines)  # noqa: E731
        each = ", ".join(f"{line['frechet']:.3f}" for line in lines)
        floor = f"{mean('floor'):.3f}" if all(line["floor"] for line in lines) else "-"
        kernel = f"{1000 * mean('kernel'):.1f} ± {1000 * mean('kernel_error'):.1f}"
        print(
            f"| {run} | {sampler} | {n}, {len(lines)} | {mean('frechet'):.3f} ({each}) | {kernel} | {floor} "
            f"| {mean('seconds'):.3f} |"
        )


if __name__ == "__main__":
    app()

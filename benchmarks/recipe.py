"""Which recipe gives the best pictures after so many minutes: candidates trained for the same time, counted in steps.

python benchmarks/recipe.py time OUT [NAME ...]            seconds of a step of candidates, in turns; those left out cost what "v" does
python benchmarks/recipe.py time-peers OUT                 the same for the peer and the peer tuned, as diffusers computes them
python benchmarks/recipe.py run OUT NAME ... --minutes 2   train each for minutes / seconds of a step, sample, measure
python benchmarks/recipe.py table OUT                      all that was measured, as Markdown
python benchmarks/recipe.py plot OUT PICTURE.png           quality against minutes: the default recipe, slimmer, and the peer

`time` wants a machine on which nothing else runs; `run` does not mind other work, since it counts steps. Data: Fashion-MNIST without
classes, --data for a folder of one's own. What sees them is data/fashion.safetensors, made by `alphabar extractor fashion-mnist --pictures 20000`;
kept here, as another machine makes slightly other weights of it. Results are added to OUT/results.jsonl, so that a series may take several sittings. The
distances are those of N samples to pictures that the run held out and the extractor did not see (--reference fashion-mnist-test for figures
that are published: a recipe is not chosen by the test set). `peer` is the recipe of the Hugging Face course's small UNet2DModel, and "peer, ..."
what tuning makes of it, trained by alphabar's kernels: what is learned in so many steps does not depend on how fast they are. How many steps
its minutes hold is measured with diffusers' own loop.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from side_by_side import NETWORKS, TUNED, in_turns, theirs

import alphabar
from alphabar.data.pictures import PictureSet
from alphabar.evaluation.extractors import Extractor, features, load_extractor
from alphabar.evaluation.quality import Distances
from alphabar.evaluation.run_evaluation import real_of_run
from alphabar.interop.unet_config import from_unet_config
from alphabar.runs.checkpoint import find_checkpoint
from alphabar.settings.config import finish, resolve
from alphabar.training.step import Trainer

app = typer.Typer(add_completion=False, help=__doc__)
FILE = Path(__file__).parent / "data" / "fashion.safetensors"
FAST = {"train.precision": "bfloat16", "train.kernels": "fused"}
V = {"diffusion.prediction": "v", "train.rate": "cosine"}
DDPM: dict[str, Any] = {
    "network.channels": [24, 48, 96], "network.attention": [False, False, True], "network.blocks": 1, "network.groups": 8,
    "diffusion.prediction": "eps", "train.rate": "constant", "train.warm_up": 200, "train.batch_size": 64,
    "train.learning_rate": 1e-3,
}  # fmt: skip
COSINE = V | {"schedule.kind": "cosine"}
SLIM = {"network.channels": [16, 32, 64]}
MUON = {"train.optimizer": "muon", "train.learning_rate": 4e-3}
TIMES = {"loss.times": "cosine"}
QUICK = V | SLIM | MUON | TIMES | {"train.warm_up": 50}
PRESET_QUICK = "v, cosine times, 16-32-64, Muon, warm-up 50"
WIDE = {"network.channels": [32, 64, 96]}
PATCHES = {"network.patch": 2, "network.channels": [48, 96], "network.attention": [False, True]}


def of_the_peer(network: str, **train: Any) -> dict[str, Any]:
    """The recipe of the course with one of its networks and these settings of training."""
    own = {f"network.{name}": value for name, value in from_unet_config(NETWORKS[network], "peer").model_dump().items()}
    train = {"rate": "constant", "warm_up": 0, "batch_size": 128, "learning_rate": 1e-3} | train
    return own | {"diffusion.prediction": "eps"} | {f"train.{name}": value for name, value in train.items()}


PEERS: dict[str, tuple[str, dict[str, Any]]] = {
    "peer": ("course", {}),
    "peer, batch 32": ("course", {"batch_size": 32}),
    "peer, one head, batch 32": ("course, one head", {"batch_size": 32}),
    "peer, attention below, batch 32": ("course, attention below", {"batch_size": 32}),
    "peer, attention below, batch 64": ("course, attention below", {"batch_size": 64}),
    "peer, attention below, batch 32, cosine rate": ("course, attention below", {"batch_size": 32, "rate": "cosine", "warm_up": 50}),
    "peer, attention below, batch 32, cosine rate 2e-3": (
        "course, attention below", {"batch_size": 32, "rate": "cosine", "warm_up": 50, "learning_rate": 2e-3},
    ),
}  # fmt: skip
"""The network and the settings of training that differ from the course's. Their average of weights is ours, which warms up."""

CANDIDATES: dict[str, dict[str, Any]] = {
    "ddpm": {},
    "cosine rate": {"train.rate": "cosine"},
    "v": V,
    "v, cosine schedule": COSINE,
    "v, min-SNR": V | {"loss.weight": "min_snr"},
    "v, stratified": V | {"loss.times": "stratified"},
    "v, importance": V | {"loss.times": "importance"},
    "v, batch 32": V | {"train.batch_size": 32},
    "v, batch 128": V | {"train.batch_size": 128, "train.learning_rate": 1.5e-3},
    "v, rate 2e-3": V | {"train.learning_rate": 2e-3},
    "v, rate 4e-3": V | {"train.learning_rate": 4e-3},
    "v, 32-64-96": V | WIDE,
    "v, 16-32-64": V | SLIM,
    "v, attention on two levels": V | {"network.attention": [False, True, True]},
    "v, no attention": V | {"network.attention": [False, False, False], "network.middle_attention": False},
    "v, patches 48-96": V | PATCHES,
    "v, patches 64-128": V | PATCHES | {"network.channels": [64, 128]},
    "v, cosine times": V | TIMES,
    "v, cosine times, 16-32-64": V | SLIM | TIMES,
    "v, cosine times, Muon": V | MUON | TIMES,
    "v, cosine times, 16-32-64, Muon": V | SLIM | MUON | TIMES,
    PRESET_QUICK: QUICK,
    "v, cosine times, 16-32-64, Muon, warm-up 20": QUICK | {"train.warm_up": 20},
    "v, cosine times, 16-32-64, Muon 8e-3, warm-up 50": QUICK | {"train.learning_rate": 8e-3},
    "v, cosine times, 16-32-64, Muon, warm-up 50, batch 32": QUICK | {"train.batch_size": 32},
    "v, cosine times, 16-32-64, Muon, warm-up 50, batch 48": QUICK | {"train.batch_size": 48},
    "quick, x_0": QUICK | {"diffusion.prediction": "x_0"},
    "quick, importance": QUICK | {"loss.times": "importance"},
    "quick, AdamW": QUICK | {"train.optimizer": "adamw", "train.learning_rate": 1e-3},
    "quick, mirrored": QUICK | {"data.flip": True},
    "quick, patches 48-96": QUICK | PATCHES,
    "v, cosine, 16-32-64": COSINE | SLIM,
    "v, cosine, 16-32-64, batch 32": COSINE | SLIM | {"train.batch_size": 32},
    "v, cosine, min-SNR": COSINE | {"loss.weight": "min_snr"},
    "v, cosine, patches 48-96": COSINE | PATCHES,
    "v, scale and shift": V | {"network.time_mode": "scale_shift"},
}


def settings_of(name: str, data: str) -> dict[str, Any]:
    """All settings of a candidate."""
    own = of_the_peer(PEERS[name][0], **PEERS[name][1]) if name in PEERS else DDPM | CANDIDATES[name]
    return {"data.source": data, "data.class_from": "none"} | FAST | own


def network_of(name: str) -> dict[str, Any]:
    """What of a candidate's settings decides what a step costs."""
    return {key: value for key, value in settings_of(name, "").items() if key.startswith("network.")}


@app.command()
def time(out: Path, names: Annotated[list[str] | None, typer.Argument()] = None, rounds: int = 5) -> None:
    """Seconds of a training step of each candidate, medians in turns, into OUT/seconds.json."""
    steps = {name: our_step(name) for name in names or CANDIDATES}
    add_seconds(out, {name: statistics.median(taken) for name, taken in in_turns(steps, rounds).items()})


@app.command()
def time_peers(
    out: Path,
    names: Annotated[list[str] | None, typer.Argument()] = None,
    rounds: int = 7,
    tuned: Annotated[str, typer.Option(help="Names of TUNED by ';', or all.")] = "all",
) -> None:
    """Seconds of a training step of diffusers' own loop: of "peer" as it comes, of the others the best of TUNED; into OUT/seconds.json.

    They are told at the pace at which "v" takes the seconds that stand there, so that all are of one machine.
    """
    same: dict[tuple[str, int, bool], list[str]] = {}  # candidates that cost the same
    for name in names or PEERS:
        network, train = PEERS[name]
        same.setdefault((network, train.get("batch_size", 128), name == "peer"), []).append(name)
    steps = {"v": our_step("v")}
    for (network, batch, as_it_comes), alike in same.items():
        ways = ["as it comes"] if as_it_comes else list(TUNED) if tuned == "all" else tuned.split(";")
        steps |= {f"{alike[0]}: {way}": theirs(network, batch, **TUNED.get(way, {})) for way in ways}
    found = {name: statistics.median(taken) for name, taken in in_turns(steps, rounds).items()}
    for name, taken in found.items():
        print(f"{name:90} {taken:.3f} s")
    pace = json.loads((out / "seconds.json").read_text())["v"] / found["v"]
    for alike in same.values():
        best = min(taken for way, taken in found.items() if way.startswith(f"{alike[0]}: "))
        add_seconds(out, dict.fromkeys(alike, pace * best))


def our_step(name: str) -> Callable[[], Any]:
    """A training step of a candidate on made-up pictures."""
    pictures = np.random.default_rng(0).integers(0, 256, (2000, 28, 28, 1), np.uint8)
    values = resolve("ddpm", None, settings_of(name, "made-up") | {"train.steps": 1000})
    return Trainer(finish(values, [28, 28]), PictureSet(pictures)).step


def add_seconds(out: Path, found: dict[str, float]) -> None:
    """Keep them in OUT/seconds.json."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / "seconds.json"
    known = json.loads(file.read_text()) if file.is_file() else {}
    known |= found
    file.write_text(json.dumps(known, indent=1))
    print(file.read_text())


@app.command()
def run(
    out: Path,
    names: list[str],
    minutes: float = 2.0,
    seed: int = 0,
    n: int = 2000,
    steps: str = "20",
    sampler: str = "auto",
    data: str = "fashion-mnist",
    reference: Annotated[str | None, typer.Option(help="Real pictures; default: what the run held out.")] = None,
    extractor: Path = FILE,
) -> None:
    """Train, sample and measure each; a line a result into OUT/results.jsonl."""
    judge, seconds = load_extractor(extractor), json.loads((out / "seconds.json").read_text())
    for name in names:
        alike = PRESET_QUICK if name.startswith("quick") else "v"
        costs_as = name if name in seconds or name in PEERS else alike
        if costs_as != name and network_of(name) != network_of(alike):
            raise SystemExit(
                f"{name} has another network than {alike!r}: python benchmarks/recipe.py time {out} {name!r}"
            )
        count = round(60 * minutes / seconds[costs_as])
        folder = out / f"{name.replace(' ', '-').replace(',', '')}-{minutes:g}-{seed}"
        if not folder.exists():
            settings = settings_of(name, data) | {"seed": seed, "train.preview_every": count}
            for _ in alphabar.train(data, folder, preset="ddpm", steps=count, settings=settings):
                pass
        if find_checkpoint(folder).step != count:
            raise SystemExit(f"{folder} was interrupted at step {find_checkpoint(folder).step} of {count}; remove it")
        told = {"name": name, "minutes": minutes, "training steps": count, "run": folder.name, "sampler": sampler}
        for each in map(int, steps.split(",")):
            result = told | {"steps": each} | measure(folder, judge, reference, n, each, sampler)
            with open(out / "results.jsonl", "a") as file:
                file.write(json.dumps(result) + "\n")
            print(result, flush=True)


def measure(folder: Path, judge: Extractor, reference: str | None, n: int, steps: int, sampler: str) -> dict[str, Any]:
    """Distances of samples of a run to real pictures that neither it nor the extractor saw, and of as many others: the floor."""
    real, source = real_of_run(find_checkpoint(folder), reference, None, judge, n, 0, None)
    made = alphabar.load(folder).with_settings(steps=steps, sampler=sampler).sample(len(real.reference)).pictures
    found, others, true = (
        features(judge, np.asarray(part)) for part in (made, real.floor.pictures[:], real.reference.pictures[:])
    )
    record = {"n": len(true), "reference": source if reference else "held out", "extractor": judge.hash}
    return record | vars(Distances.between(found, true)) | {"floor": Distances.between(others, true).frechet}


@app.command()
def table(out: Path) -> None:
    """All results as a Markdown table, by minutes, the best first."""
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    print(
        "| recipe | minutes | training steps | sampler, steps | N, reference | Frechet distance | kernel distance x 1000 |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for line in sorted(lines, key=lambda line: (line["minutes"], line["frechet"])):
        kernel = f"{1000 * line['kernel']:.1f} +- {1000 * line['kernel_error']:.1f}"
        told = (
            f"{line['sampler']}, {line['steps']} | {line['n']}, {line['reference']} | {line['frechet']:.3f} | {kernel}"
        )
        print(f"| {line['name']} | {line['minutes']:g} | {line['training steps']} | {told} |")


SHOWN = {
    (PRESET_QUICK, "auto"): "alphabar, preset quick",
    ("v, cosine times, Muon", "auto"): "alphabar, preset small",
    ("peer", "ddim"): "diffusers, course recipe, DDIM in 50 steps",
    ("peer", "auto"): "the same, sampled by alphabar in 20",
    ("peer, attention below, batch 32, cosine rate", "auto"): "its recipe tuned, sampled likewise",
}


@app.command()
def plot(out: Path, picture: Path) -> None:
    """The distance of each of SHOWN after so many minutes, which are its steps at the pace of OUT/seconds.json; N = 2,000 beside the test set.

    Of several runs of as many steps the least counts. A line goes on from the peer's best, to be met.
    """
    from matplotlib.figure import Figure

    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    lines = [line for line in lines if line["n"] == 2000 and "test" in line["reference"]]
    seconds = json.loads((out / "seconds.json").read_text())
    figure = Figure(figsize=(6.4, 3.6), dpi=110, layout="constrained")
    axis = figure.subplots()
    for (name, sampler), label in SHOWN.items():
        best: dict[float, float] = {}
        for line in lines:
            if (line["name"], line["sampler"]) == (name, sampler):
                minutes = line["training steps"] * seconds[name] / 60
                best[minutes] = min(line["frechet"], best.get(minutes, line["frechet"]))
        if not best:
            continue  # not measured yet
        (curve,) = axis.loglog(*zip(*sorted(best.items()), strict=True), "o-", label=label)
        if (name, sampler) == ("peer", "ddim"):
            axis.axhline(min(best.values()), color=curve.get_color(), lw=0.8, ls=":")
    ticks = [1, 2, 5, 10, 20, 60]
    axis.set_xticks(ticks, map(str, ticks))
    axis.set_yticks([0.5, 1, 2, 5, 10, 20], ["0.5", "1", "2", "5", "10", "20"])
    axis.minorticks_off()
    axis.set(xlabel="minutes of training on two CPU cores", ylabel="Fréchet distance", title="Fashion-MNIST, 28x28")
    axis.grid(alpha=0.3)
    axis.legend(loc="best", fontsize=8)
    figure.savefig(picture)


if __name__ == "__main__":
    app()

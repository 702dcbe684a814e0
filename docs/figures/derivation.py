"""Draw the figures of the derivation: forward, schedules, posterior, x0-hat, samplers, guidance, two_moons. Their words are symbols, legible
in both languages.

python docs/figures/derivation.py [RUN] [--out FOLDER]     RUN: a run with classes, such as that of Fashion-MNIST; without it a small one on
                                                            the digits is trained first, in two minutes. FOLDER: docs/figures
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import torch
import two_moons
import typer
from matplotlib.figure import Figure

import alphabar
from alphabar.diffusion.gaussian import diffuse, posterior_mean, posterior_variance
from alphabar.diffusion.schedule import TableSchedule, cosine_betas, linear_betas, scaled_linear_betas, sigmoid_betas
from alphabar.generation.pipeline import Pipeline
from alphabar.randomness import normal

HERE = Path(__file__).parent
FOLDER = [HERE]  # where the figures go
SHOWN = (0, 50, 100, 200, 300, 500, 700, 1000)
TABLES = {
    "linear": linear_betas(1000),
    "scaled_linear": scaled_linear_betas(1000),
    "cosine": cosine_betas(1000),
    "sigmoid": sigmoid_betas(1000),
}


def save(figure: Figure, name: str) -> None:
    """Under this name in the folder asked for."""
    figure.savefig(FOLDER[0] / f"{name}.png", dpi=90)
    print(f"{name}.png")


def show(axis, picture: np.ndarray, title: str = "") -> None:
    """A picture (C, H, W) in [-1, 1], with a line above it."""
    axis.imshow(np.clip((np.moveaxis(picture, 0, -1) + 1) / 2, 0, 1).squeeze(), cmap="gray", vmin=0, vmax=1)
    axis.set(xticks=[], yticks=[])
    axis.set_title(title, fontsize=10)


def rows_of(pictures: dict[str, np.ndarray], name: str, titles: list[str] | None = None) -> None:
    """One row of pictures (N, C, H, W) for each label, which stands on the left."""
    count = len(next(iter(pictures.values())))
    figure = Figure(figsize=(1.1 * count + 1.2, 1.15 * len(pictures) + 0.25), layout="constrained")
    axes = figure.subplots(len(pictures), count, squeeze=False)
    for k, (row, (label, made)) in enumerate(zip(axes, pictures.items(), strict=True)):
        for i, (axis, picture) in enumerate(zip(row, made, strict=True)):
            show(axis, picture, titles[i] if titles and k == 0 else "")
        row[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=10)
    save(figure, name)


def forward(pipeline: Pipeline) -> None:
    """One picture, made by the model, under the same noise of growing weight."""
    table = TableSchedule(linear_betas(1000))
    x_0 = signed(pipeline.sample(1, seed=3).pictures)
    eps = normal(tuple(x_0.shape), 0, "figure")
    states = [diffuse(x_0, table.alpha_bars[t], eps)[0].numpy() for t in SHOWN]
    rows_of({"$x_t$": np.stack(states)}, "forward", [f"$t$ = {t}" for t in SHOWN])


def signed(pictures: np.ndarray) -> torch.Tensor:
    """uint8 (N, H, W, C) -> (N, C, H, W) in [-1, 1]."""
    return torch.from_numpy(np.moveaxis(pictures, -1, 1).astype(np.float32)) / 127.5 - 1


def schedules() -> None:
    """beta, alpha_bar and log-SNR of every table."""
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for name, betas in TABLES.items():
        table = TableSchedule(betas)
        t = np.arange(1, 1001)
        left.semilogy(t, table.beta, label=name)
        middle.plot(t, table.alpha_bars[1:])
        right.plot(t, table.log_snr(torch.from_numpy(t / 1000)))
    for axis, title in ((left, r"$\beta_t$"), (middle, r"$\bar\alpha_t$"), (right, r"$\log\,\mathrm{SNR}_t$")):
        axis.set(xlabel="$t$", title=title)
        axis.grid(alpha=0.3)
    left.legend(fontsize=8)
    save(figure, "schedules")


def posterior() -> None:
    """q(x_{t-1} | x_t, x_0) of one pixel with x_0 = 0.5, and x_t at its usual place for eps = -1.2."""
    table = TableSchedule(linear_betas(1000))
    shown = (2, 20, 100, 300)
    figure = Figure(figsize=(11, 2.6), layout="constrained")
    for axis, t in zip(figure.subplots(1, len(shown)), shown, strict=True):
        now, before = table.alpha_bars[t], table.alpha_bars[t - 1]
        x_0 = torch.tensor([0.5], dtype=torch.float64)
        x_t = diffuse(x_0, now, torch.tensor([-1.2], dtype=torch.float64))
        mean, deviation = float(posterior_mean(x_0, x_t, now, before)), float(posterior_variance(now, before).sqrt())
        x = np.linspace(mean - 5 * deviation, mean + 5 * deviation, 400)
        axis.plot(x, np.exp(-((x - mean) ** 2) / (2 * deviation**2)), label=r"$q(x_{t-1}\,|\,x_t, x_0)$")
        axis.axvline(float(x_t), color="C1", ls="--", label="$x_t$")
        axis.axvline(0.5, color="C2", ls=":", label="$x_0$")
        axis.axvline(mean, color="C0", lw=0.8, label=r"$\tilde\mu_t$")
        axis.set(title=f"$t$ = {t}", yticks=[])
    axis.legend(fontsize=7, loc="upper right")
    save(figure, "posterior")


def estimates(pipeline: Pipeline) -> None:
    """x_t and x_0_hat of one picture on its way."""
    own = pipeline.with_settings(sampler="ancestral", steps=100)
    at = (1, 10, 30, 50, 70, 85, 95, 100)
    states = [state for state in own.states([5], own.ask(1, {"class": pipeline.classes[0]})) if state.step in at]
    parts = {
        "$x_t$": np.stack([state.x_t[0].numpy() for state in states]),
        r"$\hat x_0$": np.stack([state.x_0_hat[0].numpy() for state in states]),
    }
    rows_of(parts, "x0-hat", [f"$t$ = {state.t:.2f}" for state in states])


def samplers(pipeline: Pipeline) -> None:
    """The same noise through several methods, ten network calls each."""
    made = {}
    for name, steps in (
        ("euler", 10),
        ("dpm++2m", 10),
        ("unipc", 10),
        ("dpm++2m-sde", 10),
        ("ancestral", 10),
        ("ancestral", 250),
    ):
        own = pipeline.with_settings(sampler=name, steps=steps)
        made[f"{name}, {steps}"] = signed(own.sample(10, seed=1, label=(pipeline.classes * 10)[:10]).pictures).numpy()
    rows_of(made, "samplers")


def guidance(pipeline: Pipeline) -> None:
    """One class from the same noise with growing weight."""
    made = {}
    for weight in (0.0, 1.0, 2.0, 4.0, 8.0):
        own = pipeline.with_settings(steps=25)
        name = pipeline.classes[min(6, len(pipeline.classes) - 1)]
        made[f"$w$ = {weight:g}"] = signed(own.sample(10, seed=2, label=name, guidance=weight).pictures).numpy()
    rows_of(made, "guidance")


def main(run: Annotated[Path | None, typer.Argument()] = None, out: Path = HERE) -> None:
    """All of them."""
    FOLDER[0] = out
    out.mkdir(parents=True, exist_ok=True)
    schedules()
    posterior()
    two_moons.main(out / "two_moons.png")
    with TemporaryDirectory() as folder:
        run = run or Path(folder) / "run"
        if not run.exists():
            for _ in alphabar.train("digits", run, steps=1200):
                pass
        pipeline = alphabar.load(run)
        forward(pipeline)
        estimates(pipeline)
        samplers(pipeline)
        guidance(pipeline)


if __name__ == "__main__":
    typer.run(main)

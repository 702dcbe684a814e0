"""How well conditions are followed, measured on real data. Each command prints its figures; RESULTS.md tells the commands used.

alphabar extractor fashion-mnist --pictures 60000 --out fashion-60000.safetensors        the judge of Fashion-MNIST
python benchmarks/conditions.py classes RUN                  Fashion-MNIST: samples of each class, judged by it
python benchmarks/conditions.py sample-captions RUN FILE OUT  one sample a caption, for `data/shapes.py --judge`
python benchmarks/conditions.py captions RUN FOLDER          held-out pictures: right caption among 16, right against shuffled
python benchmarks/conditions.py known-captions TRAIN TEST   held-out captions made of known words
python benchmarks/conditions.py maps RUN FOLDER OUT          one sample a map, for `data/openmoji_layers.py --score`
python benchmarks/conditions.py enlarge-pictures RUN                Fashion-MNIST: super-resolution beside bicubic
python benchmarks/conditions.py colour RUN FOLDER            held-out pictures: colours beside grey
python benchmarks/conditions.py pairs RUN FOLDER             held-out pairs: how near samples come to the asked style
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import torch
import typer
from torch import Tensor

import alphabar
from alphabar.conditions.image import enlarge, luma, reduce
from alphabar.data.builtin_sets import load_fashion_mnist
from alphabar.data.decode import read_picture
from alphabar.data.pictures import to_signed, to_uint8
from alphabar.diffusion.gaussian import diffuse
from alphabar.diffusion.parameterization import target
from alphabar.evaluation.classifier import ClassifierExtractor, load_classifier
from alphabar.evaluation.extractors import features
from alphabar.generation.pipeline import Pipeline
from alphabar.networks.cond import Cond
from alphabar.randomness import generator, normal_rows

app = typer.Typer(add_completion=False, help=__doc__)
FILE = Path("fashion-60000.safetensors")


def labels(judge: ClassifierExtractor, pictures: np.ndarray) -> np.ndarray:
    """(N, 28, 28, 1) uint8 -> (N,)."""
    return judge.labels(features(judge, pictures))


def spread(found: Tensor) -> float:
    """The trace of the covariance."""
    return float(found.var(0).sum())


@app.command()
def classes(run: str, n: int = 50, steps: int = 100, guidance: str = "1,2", classifier: Path = FILE) -> None:
    """Share of samples that the classifier labels as asked, and their spread within a class against that of real pictures."""
    judge, pipeline = load_classifier(classifier), alphabar.load(run).with_settings(steps=steps)
    real, truth, names = load_fashion_mnist(part="t10k")
    wanted = np.arange(10).repeat(n)
    for weight in map(float, guidance.split(",")):
        made = pipeline.sample(10 * n, label=[names[i] for i in wanted], guidance=weight).pictures
        given = labels(judge, made)
        right = [float((given[wanted == i] == i).mean()) for i in range(10)]
        ratio = np.mean(
            [
                spread(features(judge, made[wanted == i])) / spread(features(judge, real[truth == i][:n]))
                for i in range(10)
            ]
        )
        print(f"w = {weight:g}: {np.mean(right):.1%} as asked, spread {ratio:.2f} of real; by class:")
        print("   " + ", ".join(f"{name} {share:.0%}" for name, share in zip(names, right, strict=True)))


@app.command()
def sample_captions(
    run: str, captions: Path, out: Path, steps: int = 100, guidance: float = 1.0, limit: int = 400, each: int = 1
) -> None:
    """A sample for each line of a file of captions, into an array."""
    lines = [line for line in captions.read_text(encoding="utf-8").splitlines() if line.strip()][:limit]
    asked = [line for line in lines for _ in range(each)]
    alphabar.load(run).with_settings(steps=steps).sample(prompt=asked, guidance=guidance).save(out)


def read_folder(folder: Path) -> tuple[np.ndarray, list[str], list[str]]:
    """Pictures, captions and names of a folder with metadata.csv."""
    rows = list(csv.DictReader((folder / "metadata.csv").open(encoding="utf-8")))
    pictures = np.stack([read_picture(folder / row["file_name"], (32, 32), 3) for row in rows])
    return pictures, [row["text"] for row in rows], [row["file_name"] for row in rows]


@torch.no_grad()
def denoising_errors(pipeline: Pipeline, pictures: np.ndarray, captions: list[str], draws: int) -> Tensor:
    """The training loss of each picture with its caption (N,), averaged over times and noise that depend on the draw only."""
    denoiser, n = pipeline.denoiser, len(pictures)
    values = {name: np.array(captions, object) for name in ["text"] if name in pipeline.conditions}
    cond: Cond = denoiser.encode(values, n)
    x_0, total = to_signed(pictures), torch.zeros(n)
    for k in range(draws):
        t = torch.full((n,), (k + 0.5) / draws, dtype=torch.float64)
        eps = normal_rows(x_0.shape[1:], [(0, "draw", k)]).expand_as(x_0)
        x_t = diffuse(x_0, denoiser.schedule.alpha_bar(t), eps)
        a, b = denoiser.schedule.signal(t), denoiser.schedule.noise(t)
        wanted = target(denoiser.settings.prediction, x_0, eps, a, b)
        total += ((denoiser.output(x_t, t, cond)[0] - wanted) ** 2).flatten(1).mean(1)
    return total / draws


@app.command()
def known_captions(train: Path, test: Path) -> None:
    """The captions of a held-out folder whose words all occur in training captions, though never together; one a line."""
    seen = [row["text"] for row in csv.DictReader((train / "metadata.csv").open(encoding="utf-8"))]
    words = {word for text in seen for word in text.split()}
    for row in csv.DictReader((test / "metadata.csv").open(encoding="utf-8")):
        if row["text"] not in seen and set(row["text"].split()) <= words:
            print(row["text"])


@app.command()
def captions(run: str, folder: Path, n: int = 96, among: int = 16, draws: int = 12) -> None:
    """How often the right caption of a held-out picture has the least denoising error among 16, and the errors right and shuffled."""
    pipeline = alphabar.load(run)
    pictures, texts, _ = read_folder(folder)
    chosen = generator(0, "retrieval").permutation(len(pictures))[:n]
    shifts = [0, *(1 + generator(0, "others").permutation(len(chosen) - 1)[: among - 1])]
    errors = torch.stack(
        [
            denoising_errors(pipeline, pictures[chosen], [texts[i] for i in np.roll(chosen, -shift)], draws)
            for shift in shifts
        ]
    )
    found = float((errors.argmin(0) == 0).float().mean())
    error = (found * (1 - found) / len(chosen)) ** 0.5
    print(
        f"right caption among {among}: {found:.1%} +- {error:.1%} (chance {1 / among:.1%}), {len(chosen)} held-out pictures"
    )
    print(f"error with the right caption {errors[0].mean():.5f}, with shuffled ones {errors[1:].mean():.5f}, "
          f"lower for {(errors[0] < errors[1:].mean(0)).float().mean():.1%} of the pictures")  # fmt: skip


@app.command()
def maps(run: str, folder: Path, out: Path, steps: int = 100, guidance: float = 1.0) -> None:
    """A sample for each map of a folder, in the order of their names, into an array."""
    files = sorted(folder.glob("*.png"))
    alphabar.load(run).with_settings(steps=steps).sample(map=files, guidance=guidance).save(out)


def psnr(a: Tensor, b: Tensor) -> float:
    """Mean over pictures of 10 log10(4 / mean squared error), both (N, C, H, W) in [-1, 1]."""
    return float((10 * (4 / (a - b).square().flatten(1).mean(1).clamp(min=1e-10)).log10()).mean())


@app.command()
def enlarge_pictures(run: str, n: int = 200, steps: int = 100, classifier: Path = FILE) -> None:
    """Super-resolution of Fashion-MNIST's test pictures beside bicubic interpolation."""
    judge, pipeline = load_classifier(classifier), alphabar.load(run).with_settings(steps=steps)
    real, truth, names = load_fashion_mnist(part="t10k")
    real, truth = real[:n], truth[:n]
    scale = pipeline.denoiser.encoders["image"].settings.scale
    low = reduce(to_signed(real), scale)
    bicubic = to_uint8(enlarge(low, pipeline.shape[1:]))
    inputs = list(to_uint8(low))
    told = {"bicubic": bicubic, "image alone": pipeline.sample(image=inputs).pictures}
    if pipeline.classes:
        told["image and class"] = pipeline.sample(image=inputs, label=[names[i] for i in truth]).pictures
        alone = pipeline.sample(label=[names[i] for i in truth]).pictures
        print(f"class alone (image null): {(labels(judge, alone) == truth).mean():.1%} labelled as asked")
    for name, made in told.items():
        distance = (features(judge, made) - features(judge, real)).norm(dim=1).mean()
        consistency = psnr(reduce(to_signed(made), scale), low)
        print(f"{name}: PSNR {psnr(to_signed(made), to_signed(real)):.2f} dB, feature distance {distance:.2f}, "
              f"consistency {consistency:.2f} dB, labelled right {(labels(judge, made) == truth).mean():.1%}")  # fmt: skip


@app.command()
def colour(run: str, folder: Path, n: int = 96, steps: int = 100) -> None:
    """Colours for grey held-out pictures, beside leaving them grey."""
    pipeline = alphabar.load(run).with_settings(steps=steps)
    real, texts, _ = read_folder(folder)
    real, texts = real[:n], texts[:n]
    grey = luma(to_signed(real))
    told = {"grey": to_uint8(grey.expand(-1, 3, -1, -1)), "image alone": pipeline.sample(image=list(real)).pictures}
    if "text" in pipeline.conditions:
        told["image and text"] = pipeline.sample(image=list(real), prompt=texts).pictures
    for name, made in told.items():
        x = to_signed(made)
        saturation = float((x.amax(1) - x.amin(1)).mean() / 2)
        print(
            f"{name}: PSNR {psnr(x, to_signed(real)):.2f} dB, consistency {psnr(luma(x), grey):.2f} dB, saturation {saturation:.3f}"
        )
    print(f"real: saturation {float((to_signed(real).amax(1) - to_signed(real).amin(1)).mean() / 2):.3f}")


@app.command()
def pairs(run: str, folder: Path, n: int = 86, steps: int = 50, guidance: float = 1.0) -> None:
    """Held-out pairs: PSNR to the real picture of the asked style, beside that of the input as it is, and of another picture's real one."""
    files = sorted((folder / "images").glob("*.png"))[:n]
    real, given = (
        np.stack([read_picture(folder / part / file.name, (32, 32), 3) for file in files])
        for part in ("images", "conditioning")
    )
    pipeline = alphabar.load(run).with_settings(steps=steps)
    made = pipeline.sample(image=[folder / "conditioning" / file.name for file in files], guidance=guidance).pictures
    for name, pictures in (("samples", made), ("the input", given), ("samples of another", np.roll(made, 1, axis=0))):
        print(f"{name}: PSNR {psnr(to_signed(pictures), to_signed(real)):.2f} dB")


if __name__ == "__main__":
    app()

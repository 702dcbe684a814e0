"""Training and sampling beside diffusers and azula: the same network and weights, the same data in memory, batch and threads, in turns.

python benchmarks/speed.py training --network ddpm-cifar10 --batch 32      rows 1 and 4 of RESULTS.md
python benchmarks/speed.py training --network course --batch 128           row 2
python benchmarks/speed.py sampling --network ddpm-cifar10 --batch 32      rows 3 and 4
python benchmarks/speed.py memory --network ddpm-cifar10 --batch 32        row 8
python benchmarks/speed.py overhead                                        row 5
python benchmarks/speed.py steps-of-the-table                              row 9, its first half
python benchmarks/speed.py profile --network course --batch 128           what a training step spends its time on
python benchmarks/speed.py parts                                           the fused parts beside torch's own
python benchmarks/speed.py memory-of-data FOLDER                           row 9, its second half; FOLDER takes about 4 GB

The peer "as it comes" is the loop of diffusers' training example: UNet2DModel in float32, AdamW, gradients clipped at 1. "Tuned" is the
best of TUNED (side_by_side.py), each measured; azula's loss and DDIM sampler run around the same network, likewise. Their average of weights is
left out, alphabar's is in. Needs diffusers (`pip install '.[dev]'`); `setup`
makes an environment of its own for all. Medians of --rounds rounds in turns, with the spread from least to most; set-up and compiling
happen before. A rate in GFLOP/s counts products only, three times those of a forward pass for training.
"""

from __future__ import annotations

import importlib.util
import resource
import statistics
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
import typer
from side_by_side import (
    NETWORKS,
    TUNED,
    Plain,
    Step,
    best_rate,
    forward_gflop,
    in_turns,
    loss_of_azula,
    ours,
    pictures,
    report,
    theirs,
)

from alphabar.data.pictures import PictureSet
from alphabar.generation.pipeline import Pipeline
from alphabar.kernels.fused import doubled_convolution, fused_attention, fused_group_norm
from alphabar.samplers.base import last_state
from alphabar.settings.config import finish
from alphabar.training.session import train
from alphabar.training.step import Trainer

app = typer.Typer(add_completion=False)
HERE = Path(__file__).parent
AZULA = "azula==0.11.1"


def azula() -> bool:
    """Whether this peer is here; says so where it is not."""
    found = importlib.util.find_spec("azula") is not None
    if not found:
        print(f"azula is not installed and left out; pip install --no-deps {AZULA} einops")
    return found


@app.command()
def training(
    network: str = "ddpm-cifar10", batch: int = 32, rounds: int = 5, tuned: Annotated[str, typer.Option(help="Names of TUNED by ';', or all.")] = "all"
) -> None:  # fmt: skip
    """Rows 1, 2 and 4: images/s in training."""
    names = list(TUNED) if tuned == "all" else [name for name in tuned.split(";") if name]
    trainer = ours(network, batch, "bfloat16", "fused")
    steps: dict[str, Step] = {
        "alphabar, bfloat16, fused kernels": trainer.step,
        "diffusers as it comes": theirs(network, batch),
    }
    steps |= {f"diffusers, {name}": theirs(network, batch, **TUNED[name]) for name in names}
    if azula():
        steps["azula as it comes"] = theirs(network, batch, loss_of=loss_of_azula)
        steps |= {f"azula, {name}": theirs(network, batch, loss_of=loss_of_azula, **TUNED[name]) for name in names}
    report(in_turns(steps, rounds), batch, 3 * forward_gflop(network))
    print(f"best bfloat16 rate {best_rate(torch.bfloat16):.0f}, float32 {best_rate(torch.float32):.0f} GFLOP/s")


@app.command()
def sampling(network: str = "ddpm-cifar10", batch: int = 32, steps: int = 3, rounds: int = 5) -> None:
    """Rows 3 and 4: images/s of DDIM with the same number of steps."""
    from diffusers import DDIMScheduler

    config = NETWORKS[network]
    shape = (config["in_channels"], config["sample_size"], config["sample_size"])
    denoiser = ours(network, 2, "bfloat16", "fused").average
    pipeline = Pipeline(denoiser, shape, finish({"preset": "ddpm"}, shape[1:]).sample, {}).with_settings(
        sampler="ddim", steps=steps
    )
    pipeline = pipeline.rounded()

    def mine() -> None:
        last_state(pipeline.states(list(range(batch))))

    def of_diffusers(**how: bool) -> Step:
        model, scheduler = Plain(network, **how).eval(), DDIMScheduler(num_train_timesteps=1000)

        @torch.inference_mode()
        def run() -> None:
            scheduler.set_timesteps(steps)
            x = torch.randn(batch, *shape)
            for t in scheduler.timesteps:
                x = scheduler.step(model(x, t), t, x).prev_sample

        return run

    def of_azula(**how: bool) -> Step:
        from azula.denoise import KarrasDenoiser
        from azula.noise import VPSchedule
        from azula.sample import DDIMSampler

        denoiser = KarrasDenoiser(Plain(network, **how).eval(), VPSchedule())
        sampler = DDIMSampler(denoiser, steps=steps, silent=True)

        @torch.inference_mode()
        def run() -> None:
            sampler(sampler.init((batch, *shape)))

        return run

    ways: dict[str, dict[str, bool]] = {
        "as it comes": {},
        "bf16": {"low": True},
        "bf16, channels_last": {"low": True, "channels_last": True},
        "bf16, channels_last, compile": {"low": True, "channels_last": True, "compiled": True},
    }
    found: dict[str, Step] = {"alphabar, bfloat16, fused kernels": mine}
    found |= {f"diffusers, {name}": of_diffusers(**way) for name, way in ways.items()}
    if azula():
        found |= {f"azula, {name}": of_azula(**way) for name, way in ways.items()}
    report(
        {k: [v / steps for v in taken] for k, taken in in_turns(found, rounds).items()}, batch, forward_gflop(network)
    )
    print("images/s are those of one step; " + f"best bfloat16 rate {best_rate(torch.bfloat16):.0f} GFLOP/s")


@app.command()
def memory(network: str = "ddpm-cifar10", batch: int = 32, of: str = "") -> None:
    """Row 8: peak resident memory of three training steps, each in a process of its own."""
    if of:
        step = (
            (lambda t=ours(network, batch, "bfloat16", "fused"): t.step())
            if of == "alphabar"
            else theirs(network, batch, **TUNED.get(of, {}))
        )
        for _ in range(3):
            step()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    for name in (
        "alphabar",
        "diffusers as it comes",
        "bf16, channels_last, fused AdamW",
        "bf16, channels_last, fused AdamW, compile",
    ):
        command = [sys.executable, __file__, "memory", "--network", network, "--batch", str(batch), "--of", name]
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]
        print(f"{name:45} {float(found):8.0f} MiB", flush=True)


@app.command()
def overhead(network: str = "course", batch: int = 128, rounds: int = 5) -> None:
    """Row 5: the share of a training step outside forward, backward and optimizer."""
    trainer, inside = ours(network, batch, "bfloat16", "fused"), [0.0]

    def timed(call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            result = call(*args, **kwargs)
            inside[0] += time.perf_counter() - began
            return result

        return run

    trainer.denoiser.network.forward = timed(trainer.denoiser.network.forward)  # type: ignore[method-assign]
    trainer.updater.update = timed(trainer.updater.update)  # type: ignore[method-assign]
    backward = torch.Tensor.backward
    torch.Tensor.backward = timed(backward)  # type: ignore[method-assign]
    shares = []
    for i in range(rounds + 2):
        inside[0], began = 0.0, time.perf_counter()
        trainer.step()
        if i >= 2:
            shares.append(1 - inside[0] / (time.perf_counter() - began))
    torch.Tensor.backward = backward  # type: ignore[method-assign]
    print(
        f"outside forward, backward and optimizer: {100 * statistics.median(shares):.2f} % ({100 * min(shares):.2f} to {100 * max(shares):.2f})"
    )


@app.command()
def steps_of_the_table(rounds: int = 60, batch: int = 64) -> None:
    """Row 9: a training step of preset small with T = 25 to 10,000, each beside the mean of its round, as the machine's pace changes."""
    data, trainers = PictureSet(pictures("course")), {}
    for steps in (25, 100, 1000, 10_000):
        config = {
            "preset": "ddpm",
            "schedule": {"steps": steps},
            "train": {"batch_size": batch, "steps": 1000, "precision": "bfloat16", "kernels": "fused"},
        }
        trainers[f"T = {steps}"] = Trainer(finish(config, [28, 28]), data)
    taken = np.array(list(in_turns({name: t.step for name, t in trainers.items()}, rounds).values()))
    for name, seconds, share in zip(trainers, taken, taken / taken.mean(axis=0), strict=True):
        low, middle, high = np.percentile(share, [25, 50, 75])
        # of a median, where quartiles are those of a normal distribution
        error = 1.25 * (high - low) / 1.35 / np.sqrt(rounds)
        print(f"{name:12} {1000 * np.median(seconds):.1f} ms a step, {middle:.4f} +- {error:.4f} of its round's mean")


@app.command()
def profile(
    network: str = "course", batch: int = 128, kernels: str = "native", precision: str = "bfloat16", top: int = 12
) -> None:
    """The operations of one training step by their share of its time."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    trainer = ours(network, batch, precision, kernels)
    for _ in range(2):
        trainer.step()
    with profiler(activities=[ProfilerActivity.CPU]) as found:
        trainer.step()
    events = sorted(found.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    for event in events[:top]:
        print(f"{100 * event.self_cpu_time_total / total:5.1f} %  {event.key}")


LOW = torch.bfloat16


def show_part(what: str, ways: dict[str, Callable[[], torch.Tensor]], inputs: list[torch.Tensor], rounds: int) -> None:
    """Milliseconds of each way, forward and backward, medians in turns."""
    results = {name: way() for name, way in ways.items()}
    g = torch.randn_like(next(iter(results.values())))
    back = {name: partial(torch.autograd.grad, y, inputs, g, retain_graph=True) for name, y in results.items()}
    forward, backward = in_turns(ways, rounds, quiet=True), in_turns(back, rounds, quiet=True)
    told = [
        f"{name} {1000 * statistics.median(forward[name]):.1f} / {1000 * statistics.median(backward[name]):.1f}"
        for name in ways
    ]
    print(f"{what:52} {', '.join(told)}", flush=True)


def low_pictures(n: int, c: int, size: int) -> torch.Tensor:
    return torch.randn(n, c, size, size, dtype=LOW).contiguous(memory_format=torch.channels_last).requires_grad_()


def show_norm(n: int, c: int, size: int, rounds: int) -> None:
    x, gain, bias = low_pictures(n, c, size), torch.ones(c), torch.zeros(c)
    ways: dict[str, Callable[[], torch.Tensor]] = {
        "torch": lambda: F.silu(F.group_norm(x, 32, gain.to(LOW), bias.to(LOW))),
        "fused": lambda: fused_group_norm(x, gain, bias, 32, 1e-5),
    }
    show_part(f"group norm and SiLU: {n} of {c} channels, {size}x{size}", ways, [x], rounds)


def show_attention(n: int, heads: int, size: int, d: int, rounds: int) -> None:
    qkv = low_pictures(n, 3 * heads * d, size)

    def of_torch() -> torch.Tensor:
        q, k, v = qkv.flatten(2).transpose(1, 2).unflatten(2, (3, heads, d)).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v)

    ways: dict[str, Callable[[], torch.Tensor]] = {"torch": of_torch, "fused": lambda: fused_attention(qkv, heads)}
    show_part(f"attention: {n} pictures, {heads} heads of {d}, {size}x{size}", ways, [qkv], rounds)


def show_doubling(n: int, c: int, size: int, rounds: int) -> None:
    x, w = low_pictures(n, c, size), torch.randn(c, c, 3, 3, dtype=LOW, requires_grad=True)
    ways: dict[str, Callable[[], torch.Tensor]] = {
        "torch": lambda: F.conv2d(F.interpolate(x, scale_factor=2), w, padding=1),
        "fused": lambda: doubled_convolution(x, w, None),
    }
    show_part(f"doubling and convolution: {n} of {c} channels, {size}x{size}", ways, [x, w], rounds)


@app.command()
def parts(rounds: int = 7) -> None:
    """Each fused part beside torch's own in bfloat16: milliseconds forward / backward."""
    show_norm(128, 32, 28, rounds)
    show_norm(32, 128, 32, rounds)
    show_attention(64, 8, 14, 8, rounds)
    show_attention(16, 1, 16, 256, rounds)
    show_doubling(16, 256, 16, rounds)


@app.command()
def memory_of_data(folder: Path, of: int = 0, memory_gb: float = 0.1) -> None:
    """Row 9: anonymous resident memory after three steps on so many made-up pictures, 32x32 in colour, each in a process of its own."""
    path = folder / f"{of}.npy"
    if of:
        settings = {
            "train.batch_size": 16,
            "train.precision": "float32",
            "train.kernels": "native",
            "data.memory_gb": memory_gb,
        }
        for _ in train(path, folder / f"run-{of}", preset="ddpm", steps=3, settings=settings):
            pass
        status = Path("/proc/self/status").read_text()
        print(next(line.split()[1] for line in status.splitlines() if line.startswith("RssAnon")))
        return
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    for n in (1000, 10_000, 100_000, 1_000_000):
        array = np.lib.format.open_memmap(folder / f"{n}.npy", "w+", np.uint8, (n, 32, 32, 3))
        for start in range(0, n, 10_000):
            part = array[start : start + 10_000]
            colour = draw.integers(0, 192, (len(part), 1, 1, 3), np.uint8)
            part[:] = colour + draw.integers(0, 64, part.shape, np.uint8)
        array.flush()
        del array
        command = [sys.executable, __file__, "memory-of-data", str(folder), "--of", str(n)]
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]
        (folder / f"{n}.npy").unlink()
        print(f"{n:9} pictures {int(found) / 1024:8.0f} MiB anonymous", flush=True)


@app.command()
def setup(folder: Path = HERE / "environment") -> None:
    """Make an environment with alphabar and its peers, and say how to use it."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run(
        [python, "-m", "pip", "install", "-c", HERE.parent / "constraints.txt", f"{HERE.parent}[dev]"], check=True
    )
    subprocess.run(
        [python, "-m", "pip", "install", "--no-deps", AZULA, "einops"], check=True
    )  # torchvision is for its hub
    print(f"{python} {__file__} training")


if __name__ == "__main__":
    app()

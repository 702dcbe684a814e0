"""What every benchmark of speed stands on: the networks of the comparison, a training step of both sides, timing in turns, the machine's rates."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from alphabar.data.pictures import PictureSet
from alphabar.interop.unet_config import from_unet_config
from alphabar.machine import keep_freed_memory
from alphabar.settings.config import finish
from alphabar.training.step import Trainer

NETWORKS: dict[str, dict[str, Any]] = {
    "ddpm-cifar10": {
        "sample_size": 32, "in_channels": 3, "out_channels": 3, "layers_per_block": 2, "block_out_channels": [128, 256, 256, 256],
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
        "norm_eps": 1e-6, "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1, "attention_head_dim": None,
    },
    "course": {
        "sample_size": 28, "in_channels": 1, "out_channels": 1, "layers_per_block": 2, "block_out_channels": [32, 64, 64],
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    },
}  # fmt: skip
NETWORKS |= {  # what a user who tunes the course's network would try first: its attention costs most
    "course, one head": NETWORKS["course"] | {"attention_head_dim": 64},
    "course, attention below": NETWORKS["course"] | {
        "attention_head_dim": 64,
        "down_block_types": ["DownBlock2D", "DownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "UpBlock2D", "UpBlock2D"],
    },
}  # fmt: skip
TUNED = {
    "bf16": {"low": True},
    "bf16, channels_last": {"low": True, "channels_last": True},
    "bf16, channels_last, fused AdamW": {"low": True, "channels_last": True, "fused": True},
    "bf16, channels_last, fused AdamW, compile": {"low": True, "channels_last": True, "fused": True, "compiled": True},
    "channels_last, fused AdamW, compile": {"channels_last": True, "fused": True, "compiled": True},
}
Step = Callable[[], Any]


def pictures(network: str, n: int = 512) -> np.ndarray:
    """Random pictures (n, H, W, C) uint8: their content does not matter for the speed."""
    config = NETWORKS[network]
    shape = (n, config["sample_size"], config["sample_size"], config["in_channels"])
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def unet(network: str) -> Any:
    """diffusers' network with fixed random weights."""
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    return UNet2DModel(**NETWORKS[network])


def ours(network: str, batch: int, precision: str, kernels: str) -> Trainer:
    """A trainer of the same network with the same weights, everything else as a user gets it."""
    config = NETWORKS[network]
    settings = from_unet_config(config, "benchmark").model_dump()
    train = {"batch_size": batch, "precision": precision, "kernels": kernels, "steps": 1000}
    size = [config["sample_size"]] * 2
    values = {
        "preset": "ddpm",
        "network": settings,
        "train": train,
        "schedule": {"kind": "linear"},
        "data": {"flip": False},
    }
    keep_freed_memory()  # as the command does
    trainer = Trainer(finish(values, size), PictureSet(pictures(network)))
    trainer.denoiser.network.load_state_dict(unet(network).state_dict())
    return trainer


class Plain(torch.nn.Module):
    """diffusers' network as a function of (x_t, t) with a float32 result, as it comes or tuned."""

    def __init__(self, network: str, low: bool = False, channels_last: bool = False, compiled: bool = False) -> None:
        super().__init__()
        model = unet(network).to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        self.low = low
        self.network = torch.compile(model) if compiled else model

    def forward(self, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The network's output."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.low):
            return self.network(x_t, t).sample.float()


def loss_of_diffusers(model: Plain) -> Callable[[torch.Tensor], torch.Tensor]:
    """The loss of its training example."""
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(num_train_timesteps=1000)

    def loss(x: torch.Tensor) -> torch.Tensor:
        noise, t = torch.randn_like(x), torch.randint(1000, (len(x),))
        return F.mse_loss(model(scheduler.add_noise(x, noise, t), t), noise)

    return loss


def loss_of_azula(model: Plain) -> Callable[[torch.Tensor], torch.Tensor]:
    """The loss of its denoiser with EDM's preconditioning around the same network."""
    from azula.denoise import KarrasDenoiser
    from azula.noise import VPSchedule

    denoiser = KarrasDenoiser(model, VPSchedule())
    return lambda x: denoiser.loss(x, torch.rand(len(x)))


def theirs(
    network: str,
    batch: int,
    low: bool = False,
    channels_last: bool = False,
    fused: bool = False,
    compiled: bool = False,
    loss_of: Callable[[Plain], Callable[[torch.Tensor], torch.Tensor]] = loss_of_diffusers,
) -> Step:
    """One step of diffusers' training example, with another peer's loss if one is given."""
    model = Plain(network, low, channels_last, compiled)
    data = torch.from_numpy(pictures(network)).permute(0, 3, 1, 2).float() / 127.5 - 1
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=1e-6, fused=fused or None)
    loss_on = loss_of(model)

    def step() -> None:
        x = data[torch.randint(len(data), (batch,))]
        if channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        loss = loss_on(x)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()

    return step


def in_turns(steps: Mapping[str, Step], rounds: int, warm_up: int = 2, quiet: bool = False) -> dict[str, list[float]]:
    """Seconds of each, in turns."""
    for name, step in steps.items():
        began = time.perf_counter()
        for _ in range(warm_up):
            step()
        if not quiet:
            print(f"  {name}: set up in {time.perf_counter() - began:.0f} s", flush=True)
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            taken[name].append(time.perf_counter() - began)
    return taken


def report(taken: dict[str, list[float]], batch: int, gflop: float) -> None:
    """A line each: images/s at the median and its spread, GFLOP/s, and how many times as fast ours is."""
    first = statistics.median(next(iter(taken.values())))
    for name, seconds in taken.items():
        middle = statistics.median(seconds)
        print(
            f"{name:45} {batch / middle:8.2f} images/s ({batch / max(seconds):.2f} to {batch / min(seconds):.2f})"
            f"{gflop * batch / middle:8.0f} GFLOP/s   alphabar is {middle / first:.2f} times as fast"
        )


def forward_gflop(network: str) -> float:
    """Products of one picture's forward pass, in 10^9 operations."""
    from torch.utils.flop_counter import FlopCounterMode

    config = NETWORKS[network]
    model = unet(network)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, config["in_channels"], config["sample_size"], config["sample_size"]), 0)
    return counter.get_total_flops() / 1e9


def best_rate(dtype: torch.dtype, seconds: float = 4.0) -> float:
    """The best rate of a convolution or matrix product of this type here, GFLOP/s."""
    best, ends = 0.0, time.perf_counter() + seconds
    cases = [(c, size) for c in (128, 256, 512) for size in (8, 16, 32)]
    while time.perf_counter() < ends:
        for c, size in cases:
            x = torch.randn(32, c, size, size, dtype=dtype).contiguous(memory_format=torch.channels_last)
            w = torch.randn(c, c, 3, 3, dtype=dtype).contiguous(memory_format=torch.channels_last)
            for call, flop in ((lambda x=x, w=w: F.conv2d(x, w, padding=1), 18 * 32 * c * c * size * size),):
                call()
                began = time.perf_counter()
                call()
                best = max(best, flop / (time.perf_counter() - began) / 1e9)
    a = torch.randn(2048, 2048, dtype=dtype)
    for _ in range(5):
        began = time.perf_counter()
        a @ a
        best = max(best, 2 * 2048**3 / (time.perf_counter() - began) / 1e9)
    return best

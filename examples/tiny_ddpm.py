"""Denoising diffusion on one page: torch only, two-dimensional points, under a minute on a CPU.

Everything that alphabar does is here in its smallest form, with the symbols of the derivation. Run: python examples/tiny_ddpm.py
"""

import math

import torch
from torch import nn

# ---- 1. The forward process: T small known steps of noise, and all of them in one jump --------------------------------
T = 100
beta = torch.linspace(1e-4, 0.02, T) * 1000 / T  # beta_t is preset; index t - 1 holds step t
alpha = 1 - beta
alpha_bar = alpha.cumprod(0)


def diffuse(x_0, t, eps):
    """x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps."""
    a = alpha_bar[t - 1].sqrt()[:, None]
    b = (1 - alpha_bar[t - 1]).sqrt()[:, None]
    return a * x_0 + b * eps


# ---- 2. The network: guesses the noise in x_t from x_t and t ------------------------------------------------------------
class Network(nn.Module):
    def __init__(self, width=256):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(3 * 16, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
            nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 2),
        )  # fmt: skip

    def forward(self, x_t, t):
        """Both coordinates and the time enter as sines and cosines of several frequencies, so that fine detail can be learned."""
        inputs = torch.cat([x_t, 2 * t[:, None] / T - 1], dim=1)
        angles = inputs[:, :, None] * 2.0 ** torch.arange(-2, 6)  # (N, 3, 8)
        return self.layers(torch.cat([angles.sin(), angles.cos()], dim=2).flatten(1))


# ---- 3. The data: points on a spiral ------------------------------------------------------------------------------------
def spiral(n):
    angle = 3 * math.pi * torch.rand(n).sqrt()
    radius = angle / (3 * math.pi)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1) * 1.5 + 0.03 * torch.randn(n, 2)


# ---- 4. Training: draw t, draw eps, noise the data, predict, mean squared error -----------------------------------------
def train(steps=3000, batch=512):
    network = Network()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    for step in range(1, steps + 1):
        x_0, eps = spiral(batch), torch.randn(batch, 2)
        t = torch.randint(1, T + 1, (batch,))  # every point its own t in 1..T
        loss = ((network(diffuse(x_0, t, eps), t) - eps) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * (1 - step / (steps + 1))
        if step % 500 == 0:
            print(f"step {step}: loss {loss.item():.3f}")
    return network


# ---- 5. Sampling: start from noise and step back T..1 -------------------------------------------------------------------
@torch.no_grad()
def sample(network, n):
    x = torch.randn(n, 2)
    for t in range(T, 0, -1):
        eps_hat = network(x, torch.full((n,), t))
        mean = (x - (1 - alpha[t - 1]) / (1 - alpha_bar[t - 1]).sqrt() * eps_hat) / alpha[t - 1].sqrt()
        alpha_bar_prev = alpha_bar[t - 2] if t > 1 else torch.tensor(1.0)
        variance = (1 - alpha_bar_prev) / (1 - alpha_bar[t - 1]) * beta[t - 1]  # the posterior's; 0 on the last step
        x = mean + variance.sqrt() * torch.randn(n, 2)
    return x


def show(points, width=64, height=28, limit=1.8):
    """Points as characters: the more fall on a place, the darker it is."""
    column = ((points[:, 0] / limit + 1) / 2 * width).long().clamp(0, width - 1)
    row = ((1 - points[:, 1] / limit) / 2 * height).long().clamp(0, height - 1)
    counts = torch.bincount(row * width + column, minlength=width * height).view(height, width)
    for line in counts:
        print("".join(" .:*#@"[min(5, int(c))] for c in line))


if __name__ == "__main__":
    torch.manual_seed(0)
    show(sample(train(), 1500))

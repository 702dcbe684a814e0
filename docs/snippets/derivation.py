"""The derivation in five small pieces, on points instead of pictures. The tests run them in this order."""

# ruff: noqa: E402, I001

# region jump
import torch
from alphabar.diffusion.gaussian import diffuse
from alphabar.diffusion.schedule import TableSchedule, linear_betas

schedule = TableSchedule(linear_betas(steps=100))
x_0 = torch.tensor([[1.0, -1.0]])
eps = torch.randn(x_0.shape)
x_t = diffuse(x_0, schedule.alpha_bars[60], eps)  # step 60 of 100
# endregion

# region back
from alphabar.diffusion.gaussian import posterior_mean, reverse_mean_from_eps

now, before = schedule.alpha_bars[60], schedule.alpha_bars[59]
from_x_0 = posterior_mean(x_0, x_t, now, before)
from_eps = reverse_mean_from_eps(x_t, eps, now, before)  # the same
# endregion

# region train
network = torch.nn.Sequential(torch.nn.Linear(3, 64), torch.nn.SiLU(), torch.nn.Linear(64, 2))
optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
for _ in range(400):
    t = torch.randint(1, 101, (128,))  # every point its own step
    eps = torch.randn(128, 2)
    x_t = diffuse(x_0.expand(128, 2), schedule.alpha_bars[t], eps)
    guess = network(torch.cat([x_t, t[:, None] / 100], dim=1))
    loss = ((guess - eps) ** 2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
# endregion

# region sample
from alphabar.diffusion.gaussian import posterior_variance

x = torch.randn(1000, 2)
for t in range(100, 0, -1):
    now, before = schedule.alpha_bars[t], schedule.alpha_bars[t - 1]
    guess = network(torch.cat([x, torch.full((1000, 1), t / 100)], dim=1)).detach()
    mean = reverse_mean_from_eps(x, guess, now, before)
    x = mean + posterior_variance(now, before).sqrt() * torch.randn(x.shape)  # 0 on the last step
print(x.mean(0))  # near (1, -1), the only point that the data holds
# endregion

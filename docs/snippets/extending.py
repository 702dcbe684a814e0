"""A schedule, a sampler and a network of one's own."""

# ruff: noqa: E402, I001

# region schedule
import torch
from alphabar.diffusion.schedule import TableSchedule


def quadratic_betas(steps: int) -> torch.Tensor:
    """beta_t = 0.03 (t / T)^2 at T = 1000, scaled for another T."""
    return 1000 / steps * 0.03 * torch.linspace(1 / steps, 1, steps, dtype=torch.float64) ** 2


schedule = TableSchedule(quadratic_betas(200))
print(schedule.alpha_bars[-1])  # near 0: nothing of the picture is left at the end
# endregion

# region sampler
from alphabar.diffusion.parameterization import Prediction
from alphabar.samplers.base import Sampler, Visit, last_state, sample_states
from alphabar.samplers.coordinates import jump


class Restart(Sampler):
    """x_s = a_s x_0_hat + b_s z: forget the noise in x_t, believe x_0_hat, and noise it anew."""

    stochastic = True

    def step(self, denoiser, x_t, t, s, noise, past=()):
        said = denoiser(x_t, t)
        fresh = Prediction(said.x_0, noise())
        return jump(fresh, denoiser.schedule.signal(s), denoiser.schedule.noise(s)), Visit(t, x_t, said)


# endregion

# region use
import alphabar

pipeline = alphabar.load("runs/mine").with_settings(steps=10)
states = sample_states(Restart(), pipeline.conditioned(16), pipeline.times(), range(16), pipeline.shape)
pictures = last_state(states).x_t  # (16, C, H, W), about [-1, 1]
# endregion

# region network
alphabar.load_plugin("transformer.py")
transformer = {"network.kind": "transformer", "network.layers": 6}
for report in alphabar.train("my-pictures", out="runs/transformer", minutes=30, settings=transformer):
    print(report)
pipeline = alphabar.load("runs/transformer")
# endregion

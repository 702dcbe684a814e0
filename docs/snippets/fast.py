"""Euler's step and a second-order method on data for which the exact estimate is known."""

# ruff: noqa: I001

# region compare
import torch
from alphabar.diffusion.parameterization import Prediction
from alphabar.samplers.base import last_state, sample_states
from alphabar.samplers.dpm_2m import DPMSolver2M
from alphabar.samplers.euler import Euler
from alphabar.diffusion.schedule import ContinuousCosineSchedule


class Exact:
    schedule = ContinuousCosineSchedule()

    def __call__(self, x_t, t, cond=None):
        a, b = self.schedule.signal(t).float(), self.schedule.noise(t).float()
        eps = b / (a**2 / 4 + b**2) * x_t  # the best guess for data x_0 ~ N(0, 1/4)
        return Prediction((x_t - b * eps) / a, eps)


def spread(sampler, steps):
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    return last_state(sample_states(sampler, Exact(), times, range(2000), (1,))).x_t.std()


for steps in (5, 10, 20):  # the right answer is 1/2
    print(steps, spread(Euler(), steps), spread(DPMSolver2M(), steps))
# endregion

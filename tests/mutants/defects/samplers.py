"""Defects of sampling: steps, time grids, clipping, noise and the filling in of a known picture."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from typing import Any

import torch

from alphabar.diffusion.gaussian import diffuse_step, expand
from alphabar.samplers.coordinates import half_log_snr, sigma, stride
from alphabar.samplers.ddim import DDIM
from alphabar.samplers.grids import least_time

from ..seeding import Defects

DEFECTS = Defects()
ANCESTRAL, SAMPLERS, STEPS = "laws/test_ancestral.py", "laws/test_samplers.py", "laws/test_single_steps.py"
EDITING = "test_editing.py"

# ancestral sampling, clipping and noise


@DEFECTS.seed("noise on the last step", "Ancestral.step", ANCESTRAL)
def _(original: Any) -> Any:
    def step(self, denoiser, x_t, t, s, noise, past=()):
        x_s, visit = original(self, denoiser, x_t, t, s, noise, past)
        if s == 0:
            deviation = self.deviation(visit.said, denoiser.schedule.alpha_bar(t), denoiser.schedule.alpha_bar(s))
            x_s = x_s + deviation * noise()
        return x_s, visit

    return step


@DEFECTS.seed("noise by its variance", "Ancestral.deviation", ANCESTRAL)
def _(original: Any) -> Any:
    return lambda self, *stride: original(self, *stride) ** (2 if self.variance == "posterior" else 1)


@DEFECTS.seed("log variance without the half", "Ancestral.deviation", ANCESTRAL, "learned_variance_at_its_ends")
def _(original: Any) -> Any:
    return lambda self, *stride: original(self, *stride) ** (2 if self.variance == "learned" else 1)


@DEFECTS.seed("leading instead of trailing times", "trailing_times", ANCESTRAL, "trailing_grid")
def _(original: Any) -> Any:
    return lambda schedule, steps: original(schedule, steps + 1)[1:]


@DEFECTS.seed("eps not derived again after clipping", "Clipped.__call__", ANCESTRAL, "clipping")
def _(original: Any) -> Any:
    def __call__(self, x_t, t, cond=None):
        return replace(original(self, x_t, t, cond), eps=self.denoiser(x_t, t, cond).eps)

    return __call__


@DEFECTS.seed("dynamic threshold enlarges", "dynamic_threshold", ANCESTRAL, "dynamic")
def _(original: Any) -> Any:
    """A picture so bright that its quantile exceeds 1 comes back as bright as any other."""
    return lambda x_0, quantile: original(1000 * x_0, quantile)


@DEFECTS.seed("noise keyed by the place in the batch", "seeded_noises", ANCESTRAL, "own_seed")
def _(original: Any) -> Any:
    return lambda seeds, *where: original(range(len(seeds)), *where)


@DEFECTS.seed("the same noise at every step", "seeded_noises", ANCESTRAL, "moments")
def _(original: Any) -> Any:
    def seeded_noises(*arguments):
        of_step = original(*arguments)
        return lambda step: of_step(0)

    return seeded_noises


# solvers


@DEFECTS.seed("multistep with the ratio of steps upside down", "extrapolated", STEPS, "middle_of_its_step")
def _(original: Any) -> Any:
    def extrapolated(denoiser, now, past, c):
        """The function takes r = last / c.h, which is c.h / last with this other h."""
        last = half_log_snr(denoiser.schedule, now.t) - half_log_snr(denoiser.schedule, past[0].t) if past else c.h
        return original(denoiser, now, past, replace(c, h=last**2 / c.h))

    return extrapolated


@DEFECTS.seed("parabola without its bend at the start", "parabola", STEPS, "twice_as_long and 3m")
def _(original: Any) -> Any:
    def parabola(lambdas, c, visits):
        d_0, d_1, d_2 = original(lambdas, c, visits)
        return d_0, d_1 - expand((lambdas[0] - lambdas[1]) / c.h, d_2) * d_2, d_2

    return parabola


@DEFECTS.seed("predictor never corrected", "combined", STEPS, "twice_as_long and unipc")
def _(original: Any) -> Any:
    def combined(denoiser, start, others, c):
        """Among the visits of a corrector is the end of the step, with what the predictor made of it."""
        ends = [visit for visit in others if visit.t < start.t]
        return ends[0].x_t if ends else original(denoiser, start, others, c)

    return combined


@DEFECTS.seed("moments with the wrong sign", "lagrange_weights", STEPS, "twice_as_long and deis")
def _(original: Any) -> Any:
    def lagrange_weights(h, nodes):
        moments = [torch.expm1(h)]
        for i in range(1, len(nodes)):
            moments.append(i * moments[-1] / h + 1)
        powers = torch.stack([(nodes / h) ** i for i in range(len(nodes))])
        return torch.linalg.solve(powers, torch.stack(moments))

    return lagrange_weights


@DEFECTS.seed("Adams-Bashforth weights swapped", "ADAMS_BASHFORTH", SAMPLERS, "starting_values and plms")
def _(original: Any) -> Any:
    w_0, w_1, w_2, w_3 = original[4]
    return original | {4: (w_0, w_1, w_3, w_2)}


@DEFECTS.seed("slopes added instead of averaged", "Heun.step", SAMPLERS, "starting_values and heun")
def _(original: Any) -> Any:
    def step(self, denoiser, x_t, t, s, noise, past=()):
        x_s, visit = original(self, denoiser, x_t, t, s, noise, past)
        c = stride(denoiser.schedule, t, s)
        return x_s if c.singular else 2 * x_s - expand(c.a_s / c.a_t, x_t) * x_t, visit

    return step


@DEFECTS.seed("data form with h for -h", "data_step", STEPS, "twice_as_long and 2m")
def _(original: Any) -> Any:
    return lambda x_t, estimate, c: original(x_t, estimate, replace(c, h=-c.h))


@DEFECTS.seed("history through a time without signal", "usable", SAMPLERS, "every_count and trailing and deis")
def _(original: Any) -> Any:
    return lambda past, schedule, count: list(past[:count])


@DEFECTS.seed("DDIM's variance by eta without its square", "DDIM.step", STEPS, "eta_times")
def _(original: Any) -> Any:
    return lambda self, *arguments: original(DDIM(self.eta**0.5), *arguments)


@DEFECTS.seed("inversion by the noise at the wrong place", "DDIMInversion.step", EDITING, "comes_back_from_its_noise")
def _(original: Any) -> Any:
    def step(self, denoiser, x_t, t, s, noise, past=()):
        def at_the_start(x, time, cond=None):
            return denoiser(x_t, time, cond)

        at_the_start.schedule = denoiser.schedule
        return original(self, at_the_start, x_t, t, s, noise, past)

    return step


# time grids


@DEFECTS.seed("log-SNR grid even in t", "time_grid", SAMPLERS, "even_in_their_variable")
def _(original: Any) -> Any:
    def time_grid(name, schedule, steps):
        times = original(name, schedule, steps)
        if name == "log_snr":
            times[:-1] = torch.linspace(1, least_time(schedule), steps)
        return times

    return time_grid


@DEFECTS.seed("karras grid with another exponent", "time_grid", SAMPLERS, "even_in_their_variable")
def _(original: Any) -> Any:
    def time_grid(name, schedule, steps):
        """The seventh root of sigma^(7 / 6) is the sixth root of sigma."""
        seen = copy(schedule)
        if name == "karras":
            seen.signal, seen.noise = lambda t: torch.ones(()), lambda t: sigma(schedule, t) ** (7 / 6)
        return original(name, seen, steps)

    return time_grid


DEFECTS.constant("the grid few from the schedule's own least noise", "FEW", (30.0, 0.0), SAMPLERS, "the_grid_few")

# a picture that is known in part


@DEFECTS.seed("mask upside down", "RePaint.__init__", STEPS, "known_part")
def _(original: Any) -> Any:
    return lambda self, sampler, picture, mask: original(self, sampler, picture, 1 - mask)


@DEFECTS.seed("known part without the noise of its time", "RePaint.step", STEPS, "known_part")
def _(original: Any) -> Any:
    def step(self, denoiser, x_t, t, s, noise, past=()):
        x_s, visit = original(self, denoiser, x_t, t, s, noise, past)
        return x_s if s > t else self.mask * x_s + (1 - self.mask) * self.picture, visit

    return step


@DEFECTS.seed("known part with the noise of the filled one", "RePaint.step", STEPS, "known_part")
def _(original: Any) -> Any:
    def step(self, denoiser, x_t, t, s, noise, past=()):
        return original(self, denoiser, x_t, t, s, lambda stream="sample": noise(), past)

    return step


@DEFECTS.seed("way back up with the noise of the whole way", "RePaint.step", STEPS, "back_up")
def _(original: Any) -> Any:
    def step(self, denoiser, x_t, t, s, noise, past=()):
        if s > t:
            return diffuse_step(x_t, denoiser.schedule.noise_variance(s), noise()), past[0]
        return original(self, denoiser, x_t, t, s, noise, past)

    return step


@DEFECTS.seed("stretch gone once too often", "with_returns", EDITING, "way_with_returns")
def _(original: Any) -> Any:
    return lambda times, jump, resamplings: original(times, jump, resamplings + 1)

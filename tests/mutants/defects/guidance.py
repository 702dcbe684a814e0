"""Defects of guidance, with and without a classifier."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch

from alphabar.diffusion.gaussian import expand

from ..seeding import Defects

DEFECTS = Defects()
GUIDANCE = "laws/test_guidance.py"


@DEFECTS.seed("guidance that forgets the unconditional", "Guided.factors", GUIDANCE, "one_condition and 3.0")
def _(original: Any) -> Any:
    def factors(self, t):
        first, *others = original(self, t)
        return [first - 1, *others]

    return factors


@DEFECTS.seed("guidance interval open at the wrong end", "Guided.factors", GUIDANCE, "interval")
def _(original: Any) -> Any:
    return lambda self, t: original(self, torch.as_tensor(t, dtype=torch.float64) + 1e-9)


@DEFECTS.seed("unconditional outside the interval", "Guided.factors", GUIDANCE, "interval")
def _(original: Any) -> Any:
    def factors(self, t):
        (low, high), time = self.interval, torch.as_tensor(t)
        inside = (time > low) & (time <= high)
        return [torch.where(inside, factor, float(i == 0)) for i, factor in enumerate(original(self, t))]

    return factors


@DEFECTS.seed("rescaled the wrong way round", "rescaled", GUIDANCE)
def _(original: Any) -> Any:
    def rescaled(guided, plain, strength):
        factor = strength * guided.flatten(1).std(1) / plain.flatten(1).std(1) + (1 - strength)
        return guided * expand(factor, guided)

    return rescaled


@DEFECTS.seed("eps of before the rescaling", "Guided.__call__", GUIDANCE, "rescaling")
def _(original: Any) -> Any:
    def call(self, x_t, t, cond=None):
        without = copy.copy(self)
        without.rescale = 0.0
        return replace(original(self, x_t, t, cond), eps=original(without, x_t, t, cond).eps)

    return call


@DEFECTS.seed("classifier gradient with the wrong sign", "ClassifierGuided.__call__", GUIDANCE, "classifier")
def _(original: Any) -> Any:
    def call(self, x_t, t, cond=None):
        guided = original(self, x_t, t, cond)
        return replace(guided, eps=2 * self.denoiser(x_t, t, cond).eps - guided.eps)

    return call


@DEFECTS.seed("classifier gradient not scaled by b", "ClassifierGuided.__call__", GUIDANCE, "classifier")
def _(original: Any) -> Any:
    def call(self, x_t, t, cond=None):
        eps = self.denoiser(x_t, t, cond).eps - self.weight * self._gradient(x_t, t)
        return replace(original(self, x_t, t, cond), eps=eps)

    return call


@DEFECTS.seed("x_0 that does not follow the guided eps", "ClassifierGuided.__call__", GUIDANCE, "classifier")
def _(original: Any) -> Any:
    def call(self, x_t, t, cond=None):
        guided, plain = original(self, x_t, t, cond), self.denoiser(x_t, t, cond)
        b = expand(self.schedule.noise(t), x_t)
        return replace(guided, x_0=plain.x_0 + (guided.x_0 - plain.x_0) / b)

    return call


@DEFECTS.seed("guided learned variance", "Guided._estimates", GUIDANCE, "learned_variance")
def _(original: Any) -> Any:
    def estimates(self, x_t, t, used):
        *others, last = original(self, x_t, t, used)
        first = [*others, last][0]
        return [*others, replace(last, variance_fraction=first.variance_fraction)]

    return estimates


@DEFECTS.seed("estimates in the wrong order", "Guided._estimates", GUIDANCE)
def _(original: Any) -> Any:
    return lambda self, x_t, t, used: original(self, x_t, t, used[::-1])

"""Defects of likelihoods: the variational bound, the probability-flow ODE, and their measurement on real pictures."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from torch import Tensor

from alphabar.evaluation.likelihood import BIN, chain_times
from alphabar.samplers.clip import Clipped

from ..seeding import Defects

DEFECTS = Defects()
LIKELIHOOD, MEASURED, REAL = (
    "laws/test_likelihood.py",
    "evaluation/test_run_likelihood.py",
    "evaluation/test_pictures.py",
)

DEFECTS.constant(
    "the way below the first step left out", "HELD", 1e-6, LIKELIHOOD, "exact_log_density and short or all_the_way"
)


@DEFECTS.seed("change of volume with the wrong sign", "with_divergence", LIKELIHOOD, "exact_log_density and linear")
def _(original: Any) -> Any:
    def with_divergence(*given):
        value, divergence = original(*given)
        return value, -divergence

    return with_divergence


@DEFECTS.seed("change of volume by the wrong variable", "flow_grid", LIKELIHOOD, "exact_log_density and linear")
def _(original: Any) -> Any:
    def flow_grid(*given):
        grid = original(*given)
        return replace(grid, clock=grid.angle)

    return flow_grid


@DEFECTS.seed("bits without the width of a bin", "bits_per_dimension", LIKELIHOOD, "eight_bits")
def _(original: Any) -> Any:
    return lambda log_density, dims: original(log_density, dims) + math.log2(BIN)


@DEFECTS.seed("dequantized to one side", "dequantized", LIKELIHOOD, "evenly")
def _(original: Any) -> Any:
    return lambda *given, **options: original(*given, **options) + BIN / 2


@DEFECTS.seed("probes summed instead of averaged", "directions", LIKELIHOOD, "do_not_mix")
def _(original: Any) -> Any:
    return lambda x, probes, keys: original(x, probes, keys) * math.sqrt(probes or 1)


@DEFECTS.seed("draws keyed by the place in the batch", "variational_bound", LIKELIHOOD, "any_batch")
def _(original: Any) -> Any:
    return lambda *given, **options: original(*given, **options | {"indices": None})


@DEFECTS.seed("bound without its prior", "Bound.total", LIKELIHOOD, "parts_sum")
def _(original: Any) -> Any:
    return property(lambda self: self.steps + self.decoder)


class EarlyDenoiser:
    """The estimates of a denoiser at the other end of each stride of a chain, times (n + 1,)."""

    def __init__(self, denoiser: Any, times: Tensor) -> None:
        self.denoiser, self.schedule, self.times = denoiser, denoiser.schedule, times

    def __call__(self, x_t: Tensor, t: Tensor, cond: Any = None) -> Any:
        k = int((self.times == t).nonzero())
        return self.denoiser(x_t, self.times[max(k - 1, 1)], cond)


@DEFECTS.seed("a stride's estimate from its other end", "variational_bound", LIKELIHOOD, "coarser and linear")
def _(original: Any) -> Any:
    def variational_bound(denoiser, *given, steps=None, **options):
        early = EarlyDenoiser(denoiser, chain_times(denoiser.schedule, steps))
        return original(early, *given, steps=steps, **options)

    return variational_bound


@DEFECTS.seed("the ODE of a clipped denoiser", "measure_likelihood", MEASURED, "not_for_the_ode")
def _(original: Any) -> Any:
    ode_bits = original.__globals__["ode_bits"]

    def measure_likelihood(*given, **options):
        clipped = lambda denoiser, *others, **named: ode_bits(Clipped(denoiser), *others, **named)  # noqa: E731
        with patch(f"{original.__module__}.ode_bits", clipped):
            return original(*given, **options)

    return measure_likelihood


@DEFECTS.seed("classes numbered as in the other folder", "with_classes", REAL, "numbered_as_the_models")
def _(original: Any) -> Any:
    return lambda data, classes, source: replace(original(data, classes, source), labels=data.labels)


@DEFECTS.seed("training pictures for held-out ones", "load_data", REAL, "what_was_held_out")
def _(original: Any) -> Any:
    def load_data(*given, **options):
        loaded = original(*given, **options)
        return replace(loaded, held_out=loaded.train)

    return load_data

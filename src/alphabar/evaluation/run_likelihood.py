"""Both likelihoods of a trained model on real pictures, batch by batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..engine.speed import fastest_kernels
from ..engine.ways import in_float32
from ..errors import NonFiniteError
from ..generation.pipeline import Asked, Pipeline
from ..samplers.clip import Clipped
from .likelihood import Bound, chain_times, check_ode, mean_and_error, ode_bits, variational_bound
from .pictures import RealPictures


@dataclass(frozen=True)
class Options:
    """How both are measured. bound_steps: None is all T. ode_steps, probes: of `ode_log_density`. batch: None is what fits."""

    bound_steps: int | None = None
    ode_steps: int = 100
    probes: int = 1
    seed: int = 0
    batch: int | None = None


@dataclass(frozen=True)
class Likelihood:
    """The bound and the ODE's value (N,) of N pictures, in bits per dimension, and the record of how they were measured."""

    bound: Bound
    ode: Tensor
    record: dict[str, Any]

    def summary(self) -> dict[str, tuple[float, float | None]]:
        """Mean and standard error over the pictures: of the bound, its three parts, and the ODE's value."""
        own = self.bound
        values = {"bound": own.total, "prior": own.prior, "steps": own.steps, "decoder": own.decoder, "ode": self.ode}
        return {name: mean_and_error(of_each) for name, of_each in values.items()}

    def to_json(self) -> dict[str, Any]:
        """As plain values: `summary`, the term of each step averaged over the pictures (the decoder first), each picture, the record."""
        told = {name: {"mean": mean, "standard_error": error} for name, (mean, error) in self.summary().items()}
        each = {"bound": self.bound.total.tolist(), "ode": self.ode.tolist()}
        per_step = self.bound.terms.mean(0).tolist()
        return {"unit": "bits per dimension", **told, "per_step": per_step, "each": each, "record": self.record}


def measure_likelihood(
    pipeline: Pipeline,
    real: RealPictures,
    options: Options | None = None,
    on_step: Callable[[str, int], None] | None = None,
) -> Likelihood:
    """Both likelihoods of real pictures under a pipeline's model, given the conditions that they have, in float32, not guided.

    The bound is that of ancestral sampling with the pipeline's variance and clip. The ODE's estimates are not clipped.
    on_step: called with "bound" or "ode" and the number of pictures that have gone a step. Raises ConfigurationError for options
    that cannot be, NonFiniteError where a value is not finite.
    """
    options = options or Options()
    check_ode(options.ode_steps, options.probes)
    steps = len(chain_times(pipeline.denoiser.schedule, options.bound_steps)) - 1
    size = options.batch or min(len(real), pipeline.fitting_batch(Asked({}, [])))
    evaluations, told = len(real) * (steps + options.ode_steps), on_step or (lambda what, n: None)
    denoiser = fastest_kernels(in_float32(pipeline.denoiser), pipeline.shape, evaluations)
    clipped = Clipped(denoiser, pipeline.clip, pipeline.settings.dynamic_quantile)
    bounds, odes = list[Bound](), list[Tensor]()
    for start in range(0, len(real), size):
        x_0, cond, indices = real.batch(slice(start, start + size), denoiser, options.seed)
        bounds.append(
            variational_bound(
                clipped, x_0, cond, steps=steps, variance=pipeline.variance, seed=options.seed, indices=indices,
                on_step=partial(told, "bound", len(indices)),
            )
        )  # fmt: skip
        odes.append(
            ode_bits(
                denoiser, x_0, cond, steps=options.ode_steps, probes=options.probes, seed=options.seed, indices=indices,
                on_step=partial(told, "ode", len(indices)),
            )
        )  # fmt: skip
    found = Likelihood(Bound.join(bounds), torch.cat(odes), describe(pipeline, real, options, steps))
    check_finite(found, real)
    return found


def check_finite(found: Likelihood, real: RealPictures) -> None:
    """Raise NonFiniteError, naming the first picture, if a value is not finite."""
    for what, values in (("bound", found.bound.total), ("ODE's value", found.ode)):
        bad = (~values.isfinite()).nonzero()
        if len(bad):
            raise NonFiniteError(
                f"the {what} of picture {real.data.names[int(bad[0])]} (and of {len(bad)} in all) is not finite: the model has diverged "
                "there; look at its samples and loss.png, or at another --checkpoint"
            )


def describe(pipeline: Pipeline, real: RealPictures, options: Options, steps: int) -> dict[str, Any]:
    """All that is needed to measure the same again."""
    return {
        **pipeline.record,
        "data": real.source,
        "data_fingerprint": real.fingerprint,
        "split": real.split,
        "pictures": len(real),
        "of": real.total,
        "indices": real.indices,
        "conditions": [name for name in pipeline.conditions if name not in real.null],
        "null_conditions": real.null,
        "seed": options.seed,
        "bound_steps": steps,
        "variance": pipeline.variance,
        "clip": pipeline.clip,
        "ode_steps": options.ode_steps,
        "probes": options.probes,
        "precision": "float32",
    }

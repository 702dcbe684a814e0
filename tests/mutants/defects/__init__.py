"""Known defects of diffusion code by area. Each must make the tests named with it fail (law 7)."""

from __future__ import annotations

from . import (
    conditions,
    data,
    evaluation,
    generation,
    guidance,
    interop,
    kernels,
    likelihood,
    mathematics,
    rest,
    samplers,
    training,
)

AREAS = tuple(
    area.DEFECTS
    for area in (
        mathematics, samplers, generation, training, conditions, data, guidance, interop, likelihood, evaluation, kernels, rest,
    )
)  # fmt: skip
DEFECTS = [defect for area in AREAS for defect in area]

"""Defects of DPM-Solver++ (2S and SDE-2M), Muon, the choice of the fastest kernels, and the names of pictures."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from alphabar.diffusion.gaussian import expand
from alphabar.engine.speed import fastest_kernels
from alphabar.samplers.base import Visit
from alphabar.samplers.coordinates import data_step, jump, stride
from alphabar.training.muon import QUINTIC

from ..seeding import Defects

DEFECTS = Defects()
SAMPLERS, STEPS = "laws/test_samplers.py", "laws/test_single_steps.py"
MUON, SPEED = "training/test_muon.py", "test_speed.py"

DEFECTS.constant("a gain of noise is taken", "WORTHWHILE", math.inf, SPEED)


@DEFECTS.seed("the ends by Muon too", "end_weights", MUON)
def _(original: Any) -> Any:
    return lambda network: set()


# Samplers


@DEFECTS.seed("noise of the SDE too small", "DPMSolver2MSDE.step", STEPS, "sde")
def _(original: Any) -> Any:
    def step(self, denoiser, x_t, t, s, noise, past=()):
        new = -torch.expm1(-2 * stride(denoiser.schedule, t, s).h)
        return original(self, denoiser, x_t, t, s, lambda: noise() * expand(new.sqrt(), x_t), past)

    return step


@DEFECTS.seed("the SDE keeps too much", "DPMSolver2MSDE.step", STEPS, "sde")
def _(original: Any) -> Any:
    def step(self, denoiser, x_t, t, s, noise, past=()):
        x_s, visit = original(self, denoiser, x_t, t, s, noise, past)
        c = stride(denoiser.schedule, t, s)
        return x_s + expand(c.b_s / c.b_t * (1 - torch.exp(-c.h)), x_t) * x_t, visit

    return step


@DEFECTS.seed("2S without its middle", "DPMSolver2S.step", SAMPLERS, "declared or slope or order")
def _(original: Any) -> Any:
    def step(self, denoiser, x_t, t, s, noise, past=()):
        said, c = denoiser(x_t, t), stride(denoiser.schedule, t, s)
        x_s = jump(said, c.a_s, c.b_s) if c.singular else data_step(x_t, said.x_0, c)
        return x_s, Visit(t, x_t, said)

    return step


# Muon


@DEFECTS.seed("tall matrices orthogonalised the long way", "orthogonalized", MUON, "singular_v")
def _(original: Any) -> Any:
    def orthogonalized(matrices):
        turned = original(matrices)
        return turned.mT.reshape(turned.shape) if turned.size(-2) > turned.size(-1) else turned

    return orthogonalized


@DEFECTS.seed("the polynomial meets the squares once", "orthogonalized", MUON, "singular_v")
def _(original: Any) -> Any:
    def orthogonalized(matrices):
        p, values, q = torch.linalg.svd(matrices.float(), full_matrices=False)
        values = values / values.norm(dim=-1, keepdim=True).clamp(min=1e-7)
        a, b, c = QUINTIC
        squares = values**2
        for _ in range(5):
            polynomial = a + b * squares + c * squares**2
            values, squares = values * polynomial, squares * polynomial
        return p @ torch.diag_embed(values) @ q

    return orthogonalized


@DEFECTS.seed("Muon without the size of the matrix", "orthogonalized", MUON, "move")
def _(original: Any) -> Any:
    return lambda matrices: original(matrices) / max(matrices.shape[1:]) ** 0.5


@DEFECTS.seed("Muon without looking ahead", "Muon._directions", MUON)
def _(original: Any) -> Any:
    def directions(self, parameters):
        original(self, parameters)
        return tuple(self.state[p]["momentum"] for p in parameters)

    return directions


# The fastest way


@DEFECTS.seed("a way that disagrees is taken", "Result.agrees", SPEED)
def _(original: Any) -> Any:
    return lambda self, other, precision: True


@DEFECTS.seed("float32 kernels may err as bfloat16 does", "Result.agrees", SPEED, "float32_kernels")
def _(original: Any) -> Any:
    return lambda self, other, precision: original(self, other, "bfloat16")


@DEFECTS.seed("a measurement that takes gradients away", "measure", SPEED, "gradients")
def _(original: Any) -> Any:
    def measure(denoiser, shape, candidates):
        seconds = original(denoiser, shape, candidates)
        denoiser.zero_grad(set_to_none=True)
        return seconds

    return measure


@DEFECTS.seed("sampling that builds graphs", "settle_sampling", SPEED, "gradients_alone")
def _(original: Any) -> Any:
    return original.__wrapped__  # without torch.no_grad


@DEFECTS.seed("kernels of long sampling that stay on", "Pipeline.stream", SPEED, "while_it_lasts")
def _(original: Any) -> Any:
    def stream(self, seeds, asked=None, *others):
        self.denoiser = fastest_kernels(self.denoiser, self.shape, self.evaluations(asked or self.ask(len(seeds), {})))
        yield from original(self, seeds, asked, *others)

    return stream


# Names of pictures


@DEFECTS.seed(
    "pictures of an array named by their place in the half",
    "chosen_names",
    "data/test_split.py",
    "fraction_is_held_out",
)
def _(original: Any) -> Any:
    return lambda names, indices: original(names, np.arange(len(indices)))

"""Defects of models that go to other programs and come from them: diffusers and ONNX."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import torch

from alphabar.interop.files import CLASS_TABLE
from alphabar.interop.scheduler_config import SPACINGS

from ..seeding import Defects

DEFECTS = Defects()
TO_DIFFUSERS, FROM_DIFFUSERS, ONNX = (
    f"interop/test_{name}.py" for name in ("diffusers_export", "diffusers_import", "onnx")
)

DEFECTS.constant(
    "old keys and values of attention swapped",
    "RENAMED",
    {"query": "to_q", "key": "to_v", "value": "to_k", "proj_attn": "to_out.0"},
    FROM_DIFFUSERS,
    "published_repositories and celebahq",
)


@DEFECTS.seed("attention of the way up not mirrored", "to_unet_config", TO_DIFFUSERS, "same_pictures and linear")
def _(original: Any) -> Any:
    def to_unet_config(*given):
        config = original(*given)
        return config | {"up_block_types": config["up_block_types"][::-1]}

    return to_unet_config


@DEFECTS.seed("sine and cosine swapped on export", "to_unet_config", TO_DIFFUSERS, "same_pictures and linear")
def _(original: Any) -> Any:
    def to_unet_config(*given):
        config = original(*given)
        return config | {"flip_sin_to_cos": not config["flip_sin_to_cos"]}

    return to_unet_config


@DEFECTS.seed("exported spacing of older code", "to_scheduler_config", TO_DIFFUSERS, "same_pictures and stride")
def _(original: Any) -> Any:
    def to_scheduler_config(schedule, diffusion, sample):
        spacing = sample.grid if sample.grid in SPACINGS else "leading"
        return original(schedule, diffusion, sample) | {"timestep_spacing": spacing}

    return to_scheduler_config


@DEFECTS.seed("dynamic clipping that never exceeds 1", "to_scheduler_config", TO_DIFFUSERS, "same_pictures and dynamic")
def _(original: Any) -> Any:
    return lambda *given: original(*given) | {"sample_max_value": 1.0}


@DEFECTS.seed("named betas not scaled back", "beta_fields", TO_DIFFUSERS, "by_name")
def _(original: Any) -> Any:
    return lambda settings: original(settings) | {"beta_start": settings.beta_start, "beta_end": settings.beta_end}


@DEFECTS.seed("a size that the way up would double wrongly", "size_obstacle", TO_DIFFUSERS, "cannot_hold")
def _(original: Any) -> Any:
    return lambda settings, shape: original(settings, (shape[0], shape[2], shape[2]))


@DEFECTS.seed("a pickle that is opened", "read_weights", FROM_DIFFUSERS, "run_code")
def _(original: Any) -> Any:
    load = torch.load

    def read_weights(path):
        with patch("torch.load", lambda *given, **named: load(*given, **named | {"weights_only": False})):
            return original(path)

    return read_weights


@DEFECTS.seed("fixed large imported as fixed small", "sample_settings", FROM_DIFFUSERS, "variances")
def _(original: Any) -> Any:
    swapped = {"fixed_large": "fixed_small", "fixed_small": "fixed_large"}

    def sample_settings(values):
        kind = values["variance_type"]
        return original({**values, "variance_type": swapped.get(kind, kind)})

    return sample_settings


@DEFECTS.seed("a made-up null class where one was trained", "own_tensors", FROM_DIFFUSERS, "there_and_back and classes")
def _(original: Any) -> Any:
    def own_tensors(tensors, has_null):
        if not has_null:
            return original(tensors, has_null)
        return original({**tensors, CLASS_TABLE: tensors[CLASS_TABLE][:-1]}, False)

    return own_tensors


@DEFECTS.seed("network times of ONNX one step late", "sampler_facts", ONNX, "facts")
def _(original: Any) -> Any:
    def sampler_facts(*given):
        facts = original(*given)
        return facts | {"network_times": [float(k) for k in range(len(facts["alpha_bars"]))]}

    return sampler_facts

"""The noise schedule, the prediction and the sampling as the configuration of a diffusers scheduler, and back.

diffusers counts its steps from 0, which is what our network is told of t = k / T: k - 1. It computes its tables in float32, where
1 - alpha_bar next to clean data has three digits. Over all 1000 steps its pictures therefore differ from those in float64, and from
ours, by 4e-5 with linear betas and by 3e-4 (a 25th of a level of 8 bits) with cosine ones; over 250 steps by less than 1e-4.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..diffusion.schedule import TableSchedule, build_schedule, check_betas, cosine_betas, rescale_zero_terminal_snr
from ..errors import ConfigurationError
from ..settings.base import DiffusionSettings, SampleSettings, ScheduleSettings, validate
from .files import DIFFUSERS_VERSION

SAME_TABLE = 1e-8
UNBOUNDED = 1e9  # no |x_0_hat| comes near: our dynamic clipping has no upper limit, that of diffusers needs one
PREDICTIONS = {"eps": "epsilon", "x_0": "sample", "v": "v_prediction"}
VARIANCES = {"posterior": "fixed_small", "beta": "fixed_large", "learned": "learned_range"}
LOG_FORMS = {
    "fixed_small_log": "fixed_small",
    "fixed_large_log": "fixed_large",
}  # the same variances, kept as their log
NAMES = {"linear": "linear", "scaled_linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}
CLIPPING = {"DDPMScheduler", "DDPMParallelScheduler", "DDIMScheduler", "DDIMParallelScheduler", "DDIMInverseScheduler"}
"""Schedulers that clip x_0 to [-1, 1] where their configuration says nothing about it."""
SPACINGS = ("trailing", "leading", "linspace")
KNOWN = CLIPPING | {
    "DEISMultistepScheduler", "DPMSolverMultistepScheduler", "DPMSolverSDEScheduler", "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler", "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler", "LMSDiscreteScheduler", "PNDMScheduler", "SASolverScheduler", "UniPCMultistepScheduler",
}  # fmt: skip
"""Schedulers of a table of betas: their networks are trained alike and told the same time, whatever the way they sample."""
DEFAULTS: dict[str, Any] = {
    "num_train_timesteps": None, "beta_start": None, "beta_end": None, "beta_schedule": None, "trained_betas": None, "rescale_betas_zero_snr": False,
    "prediction_type": "epsilon", "variance_type": "fixed_small",
    "clip_sample_range": 1.0, "thresholding": False, "dynamic_thresholding_ratio": 0.995, "sample_max_value": 1.0,
    "use_flow_sigmas": False, "timestep_type": "discrete",
}  # fmt: skip


def to_scheduler_config(
    schedule: ScheduleSettings, diffusion: DiffusionSettings, sample: SampleSettings
) -> dict[str, Any]:
    """The configuration of a DDPMScheduler that samples the same pictures."""
    clip = sample.clip_for(3)
    return {
        "_class_name": "DDPMScheduler",
        "_diffusers_version": DIFFUSERS_VERSION,
        **beta_fields(schedule),
        "prediction_type": PREDICTIONS[diffusion.prediction],
        "variance_type": VARIANCES["learned" if diffusion.learned_variance else sample.variance or "posterior"],
        "clip_sample": clip == "static",
        "clip_sample_range": 1.0,
        "thresholding": clip == "dynamic",
        "dynamic_thresholding_ratio": sample.dynamic_quantile,
        "sample_max_value": UNBOUNDED if clip == "dynamic" else 1.0,
        "timestep_spacing": sample.grid if sample.grid in SPACINGS else "trailing",
        "steps_offset": 0,
        "rescale_betas_zero_snr": False,
    }


def beta_fields(settings: ScheduleSettings) -> dict[str, Any]:
    """The table of betas: by the name that diffusers has for it, if that gives the same, otherwise number by number."""
    schedule = build_schedule(settings)
    if not isinstance(schedule, TableSchedule):
        raise ConfigurationError(f"schedule.kind={settings.kind} has no table of betas, which a scheduler needs")
    scale = 1000 / settings.steps if "linear" in settings.kind else 1.0  # ours are scaled, theirs are not
    fields: dict[str, Any] = {
        "num_train_timesteps": schedule.steps,
        "beta_start": scale * settings.beta_start,
        "beta_end": scale * settings.beta_end,
        "beta_schedule": NAMES.get(settings.kind, "linear"),
        "trained_betas": None,
    }
    by_name = diffusers_betas(DEFAULTS | fields)
    if settings.kind in NAMES and same_table(by_name, schedule.beta):
        return fields
    return fields | {"trained_betas": schedule.beta.tolist()}


def same_table(a: Tensor, b: Tensor) -> bool:
    """Whether two tables of betas are the same but for rounding."""
    return a.shape == b.shape and float((a - b).abs().max()) <= SAME_TABLE


def diffusers_betas(values: Mapping[str, Any]) -> Tensor:
    """The betas that a scheduler of diffusers has by these fields, in float64 where diffusers computes in float32. Shape (T,)."""
    steps, start, end = values["num_train_timesteps"], values["beta_start"], values["beta_end"]
    if values["trained_betas"] is not None:
        betas = torch.tensor(values["trained_betas"], dtype=torch.float64)
    else:
        match values["beta_schedule"]:
            case "linear":
                betas = torch.linspace(start, end, steps, dtype=torch.float64)
            case "scaled_linear":
                betas = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2
            case "squaredcos_cap_v2":
                betas = cosine_betas(steps)
            case "sigmoid":  # of GeoDiff: beta_t itself is a sigmoid of t, unlike schedule.kind=sigmoid
                betas = torch.sigmoid(torch.linspace(-6, 6, steps, dtype=torch.float64)) * (end - start) + start
            case other:
                raise ConfigurationError(f"beta_schedule {other!r} is unknown to alphabar; give trained_betas instead")
    return rescale_zero_terminal_snr(betas) if values["rescale_betas_zero_snr"] else betas


def from_scheduler_config(
    config: Mapping[str, Any], learned_channels: bool, where: object
) -> tuple[ScheduleSettings, DiffusionSettings, SampleSettings]:
    """The settings that mean the same; learned_channels: whether the network has channels for the variance.

    Raises ConfigurationError with every reason why there are none.
    """
    values = DEFAULTS | {"clip_sample": config.get("_class_name") in CLIPPING, **config}
    values["variance_type"] = LOG_FORMS.get(values["variance_type"], values["variance_type"] or "fixed_small")
    reasons = [*obstacles(values, learned_channels)]
    if reasons:
        raise ConfigurationError(f"{where} cannot be imported: {'; '.join(reasons)}")
    try:
        return schedule_settings(values), diffusion_settings(values), sample_settings(values)
    except ConfigurationError as error:
        raise ConfigurationError(f"{where} cannot be imported: {error}") from None


def obstacles(values: Mapping[str, Any], learned_channels: bool) -> Iterator[str]:
    """Why no settings of alphabar's mean what these fields do, one sentence part each."""
    if values.get("_class_name") not in KNOWN:
        yield f"{values.get('_class_name')} is no scheduler of a table of betas, x_t = a x_0 + b eps; known are {', '.join(sorted(KNOWN))}"
        return
    if wrong := [*number_obstacles(values)]:
        yield from wrong
        return
    if values["prediction_type"] not in PREDICTIONS.values():
        yield f"prediction_type is {values['prediction_type']!r}, alphabar has {', '.join(PREDICTIONS.values())}"
    if values["use_flow_sigmas"] or values["timestep_type"] != "discrete":
        yield "the network is told another time than the number of a step (use_flow_sigmas, or timestep_type continuous)"
    if values["variance_type"] not in VARIANCES.values():
        yield f"variance_type is {values['variance_type']!r}, alphabar has {', '.join(VARIANCES.values())}"
    elif learned_channels != (values["variance_type"] == "learned_range"):
        has = "twice" if learned_channels else "just"
        yield f"variance_type is {values['variance_type']!r}, but the network puts out {has} the channels of a picture"
    if values["clip_sample"] and not values["thresholding"] and values["clip_sample_range"] != 1:
        yield f"clip_sample_range is {values['clip_sample_range']}, but pictures here lie in [-1, 1]"
    if values["thresholding"] and not (values["sample_max_value"] <= 1 or values["sample_max_value"] >= UNBOUNDED):
        yield f"thresholding has the upper limit sample_max_value = {values['sample_max_value']}, alphabar's clip=dynamic has none: set 1 for plain clipping, {UNBOUNDED:g} for no limit"


def number_obstacles(values: Mapping[str, Any]) -> Iterator[str]:
    """What is missing or no number among the fields that must be."""
    steps, betas = values["num_train_timesteps"], values["trained_betas"]
    for name in ("clip_sample_range", "sample_max_value", "dynamic_thresholding_ratio"):
        if not _is_number(values[name]):
            yield f"{name} must be a number, got {json.dumps(values[name])}"
    for name in ("beta_start", "beta_end") if betas is None else ():
        if not _is_number(values[name]) or not 0 < values[name] < 1:
            yield f"{name} must lie in (0, 1), got {json.dumps(values[name])}"
    if not isinstance(steps, int) or steps < 1:
        yield f"num_train_timesteps must be 1 or more, got {json.dumps(steps)}"
    if betas is not None and not (isinstance(betas, list) and all(map(_is_number, betas)) and len(betas) == steps):
        yield f"trained_betas must be {steps} numbers (num_train_timesteps)"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def schedule_settings(values: Mapping[str, Any]) -> ScheduleSettings:
    """The schedule: by name if ours of that name has the same table, otherwise custom. Raises ConfigurationError."""
    betas = diffusers_betas(values)
    check_betas(betas)
    named = named_schedule(values, betas)
    return named or validate(ScheduleSettings, {"kind": "custom", "betas": betas.tolist()})


def named_schedule(values: Mapping[str, Any], betas: Tensor) -> ScheduleSettings | None:
    """The schedule of alphabar's that corresponds to beta_schedule, if it has these betas (T,)."""
    kinds = {theirs: ours for ours, theirs in NAMES.items()}
    if values["trained_betas"] is not None or values["beta_schedule"] not in kinds:
        return None
    kind, scale = kinds[values["beta_schedule"]], len(betas) / 1000  # ours are given at T = 1000 and scaled by 1000 / T
    fields = {"kind": kind, "steps": len(betas), "zero_terminal_snr": bool(values["rescale_betas_zero_snr"])}
    if kind != "cosine":
        fields |= {"beta_start": scale * values["beta_start"], "beta_end": scale * values["beta_end"]}
    try:
        settings = validate(ScheduleSettings, fields)
        schedule = build_schedule(settings)
    except ConfigurationError:  # such as a beta_end beyond 1 once it is scaled, while the table itself is fine
        return None
    return settings if isinstance(schedule, TableSchedule) and same_table(schedule.beta, betas) else None


def diffusion_settings(values: Mapping[str, Any]) -> DiffusionSettings:
    """What the network predicts."""
    kind = next(ours for ours, theirs in PREDICTIONS.items() if theirs == values["prediction_type"])
    learned = values["variance_type"] == "learned_range"
    return validate(DiffusionSettings, {"prediction": kind, "time": "step", "learned_variance": learned})


def sample_settings(values: Mapping[str, Any]) -> SampleSettings:
    """Variance and clipping as the scheduler has them. Its limit of 1 makes thresholding plain clipping to [-1, 1]."""
    dynamic = values["thresholding"] and values["sample_max_value"] > 1
    clip = "dynamic" if dynamic else "static" if values["thresholding"] or values["clip_sample"] else "off"
    fields: dict[str, Any] = {"clip": clip, "dynamic_quantile": values["dynamic_thresholding_ratio"]}
    if values["variance_type"] == VARIANCES["beta"]:
        fields["variance"] = "beta"  # the other two are what alphabar takes by itself
    return validate(SampleSettings, fields)

"""The base of all settings, and the settings of the rooms that are a single file. Imports no torch.

A field's description is at once its documentation, its help on the command line and its label in a form.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ..errors import ConfigurationError, nearest


class Settings(BaseModel):
    """Frozen; an unknown key is an error that names the nearest known one."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False, defer_build=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for key in data:
                if key not in cls.model_fields:
                    raise ConfigurationError(
                        f"unknown key {key!r} in {cls.__name__}; {nearest(str(key), cls.model_fields)}"
                    )
        return data


S = TypeVar("S", bound=Settings)


def validate(model: type[S], values: Any, section: str = "") -> S:
    """The settings as checked objects. Raises ConfigurationError that says what, got and expected of each fault.

    section: where the settings stand in a configuration, such as "network", for the message.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigurationError("; ".join(fault(e, section) for e in error.errors())) from None


def fault(error: Any, section: str = "") -> str:
    """One fault of pydantic's list in words: which field, what was expected, what it got."""
    path = ".".join(str(part) for part in (section, *error["loc"]) if part != "")
    if error["type"] in ("literal_error", "union_tag_invalid"):
        expected = str(error["ctx"].get("expected") or error["ctx"].get("expected_tags"))
        return f"{path}: unknown {error['input']!r}; {nearest(str(error['input']), [w.strip(chr(39) + ' ') for w in expected.replace(' or ', ', ').split(',')])}"
    return f"{path}: {error['msg'][0].lower()}{error['msg'][1:]}, got {error['input']!r}"


def read_betas(value: Any) -> Any:
    """A path to numbers (.npy, .json, or text with one number a line or separated by commas) becomes those numbers."""
    if isinstance(value, list | tuple) or value is None:
        return value
    if hasattr(value, "tolist"):  # numpy array or torch tensor
        return value.tolist()
    import json

    import numpy as np

    path = Path(str(value))
    if not path.is_file():
        raise ConfigurationError(f"schedule.betas: no file {str(path)!r}; give a .npy, .json or text file, or a list")
    try:
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False).ravel().tolist()
        if path.suffix == ".json":
            return json.loads(path.read_text())
        return [float(word) for word in path.read_text().replace(",", " ").split()]
    except (ValueError, OSError) as error:
        raise ConfigurationError(f"schedule.betas: cannot read numbers from {str(path)!r}: {error}") from None


class ScheduleSettings(Settings):
    """How much noise each step adds."""

    kind: Literal["linear", "scaled_linear", "cosine", "sigmoid", "custom", "continuous_cosine"] = Field(
        "linear",
        description="linear (DDPM), scaled_linear (linear in sqrt(beta); latent diffusion calls it 'linear'), cosine, "
        "sigmoid, custom (your own betas), or continuous_cosine (no table, any real time)",
    )
    steps: int = Field(1000, ge=1, description="T, the number of noising steps of the table")
    beta_start: float = Field(1e-4, gt=0, lt=1, description="beta of the first step at T = 1000 (linear kinds)")
    beta_end: float = Field(0.02, gt=0, lt=1, description="beta of the last step at T = 1000 (linear kinds)")
    betas: list[float] | None = Field(
        None, description="kind=custom: the beta values, as a list or the path of a file (.npy, .json, text)"
    )
    zero_terminal_snr: bool = Field(False, description="rescale so that nothing of the picture is left at t = T")

    @model_validator(mode="before")
    @classmethod
    def _count_betas(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("betas") is not None:
            betas = read_betas(data["betas"])
            if isinstance(betas, list) and not betas:
                raise ConfigurationError("schedule.betas holds no numbers; give the beta of each step")
            return {"steps": len(betas), **data, "betas": betas}
        return data

    @model_validator(mode="after")
    def _custom_needs_betas(self) -> ScheduleSettings:
        if (self.kind == "custom") != (self.betas is not None):
            raise ConfigurationError("schedule.betas and schedule.kind=custom go together: set both or neither")
        if self.betas is not None and self.steps != len(self.betas):
            raise ConfigurationError(
                f"schedule.steps is {self.steps} but {len(self.betas)} betas are given; leave steps out"
            )
        if self.kind == "continuous_cosine" and self.zero_terminal_snr:
            raise ConfigurationError(
                "schedule.kind=continuous_cosine ends at its own finite SNR; leave zero_terminal_snr off"
            )
        return self


class DiffusionSettings(Settings):
    """What the network predicts and what it is told about time."""

    prediction: Literal["eps", "x_0", "v"] = Field("eps", description="what the network's output means")
    time: Literal["step", "log_snr"] = Field(
        "step", description="what the network is told: the table's index or the log-SNR"
    )
    learned_variance: bool = Field(False, description="the network also predicts the reverse variance (Improved DDPM)")


class LossSettings(Settings):
    """How errors are weighted and which times are drawn."""

    weight: Literal["simple", "min_snr", "snr"] = Field(
        "simple",
        description="simple: 1 on the target; min_snr: min(SNR, gamma) on x_0; snr: SNR on x_0, in any prediction",
    )
    min_snr_gamma: float = Field(5.0, gt=0, description="gamma of min_snr")
    vlb_weight: float = Field(
        1e-3, ge=0, description="lambda of the hybrid loss L_simple + lambda T L_vlb, used when the variance is learned"
    )
    times: Literal["uniform", "stratified", "cosine", "importance"] = Field(
        "uniform",
        description="how t is drawn: independently, one per stratum of the batch, at the noise levels of a cosine schedule (whatever the schedule is), or by past loss",
    )


SamplerName = Literal[
    "auto", "ancestral", "ddim", "euler", "heun", "dpm++2s", "dpm++2m", "dpm++3m", "dpm++2m-sde", "unipc", "deis", "plms",
    "adaptive",
]  # fmt: skip
GridName = Literal["trailing", "leading", "linspace", "quadratic", "log_snr", "karras", "few"]
VarianceName = Literal["posterior", "beta", "learned"]
ClipName = Literal["static", "dynamic", "off"]
OPTION_OF = {"variance": "ancestral", "eta": "ddim", "tolerance": "adaptive"}
"""Settings that one sampler alone has: with `auto` they pick it."""


class SampleSettings(Settings):
    """How new pictures are made."""

    sampler: SamplerName = Field(
        "auto",
        description=f"the method: {', '.join(get_args(SamplerName))}; auto is picked by the number of steps, from a table measured "
        "in this project",
    )
    grid: GridName | None = Field(
        None,
        description=f"where the steps lie: {', '.join(get_args(GridName))}; default: trailing (even in t), or what auto picks",
    )
    steps: int | None = Field(
        None, ge=1, description="reverse steps, at most T; default: 50, of ancestral sampling 250, of adaptive 10"
    )
    variance: VarianceName | None = Field(
        None,
        description="sampler=ancestral (which auto then takes): noise of a step; default: learned if the model learned it, otherwise posterior",
    )
    eta: float | None = Field(
        None,
        ge=0,
        le=1,
        description="sampler=ddim (which auto then takes): 0 is deterministic, 1 ancestral; default: 0",
    )
    tolerance: float | None = Field(
        None, gt=0, description="sampler=adaptive (which auto then takes): relative error of a step; default: 0.05"
    )
    clip: ClipName | None = Field(
        None,
        description="keep x_0 in range: static (to [-1, 1]), dynamic (by quantile) or off; default: static for pictures, off for points",
    )
    dynamic_quantile: float = Field(0.995, gt=0, le=1, description="quantile of |x_0| for clip=dynamic")
    guidance: float | dict[str, float] = Field(
        1.0,
        description="w of u + w (c - u), for all conditions or by name: 1 is plain conditional, 0 unconditional, more follows the condition closer",
    )
    guidance_rescale: float = Field(
        0.0, ge=0, le=1, description="how far the guided estimate is brought back to the plain one's contrast"
    )
    guidance_interval: tuple[float, float] = Field(
        (0.0, 1.0), description="times (from, to] at which guidance works; 1 is the most noise"
    )

    def clip_for(self, axes: int) -> ClipName:
        """The clipping of x_0 with so many axes: as set, otherwise static for pictures (C, H, W) and off for points, which have no range."""
        return self.clip or ("static" if axes == 3 else "off")

    @model_validator(mode="after")
    def _check_options(self) -> SampleSettings:
        for name, sampler in OPTION_OF.items():
            if getattr(self, name) is not None and self.sampler not in ("auto", sampler):
                raise ConfigurationError(
                    f"{name} is a setting of sampler={sampler}, not of {self.sampler}; leave one out"
                )
        chosen = [f"{name} (of {sampler})" for name, sampler in OPTION_OF.items() if getattr(self, name) is not None]
        if len(chosen) > 1:
            raise ConfigurationError(f"{' and '.join(chosen)} go with different samplers; give one of them")
        return self

    @field_validator("guidance")
    @classmethod
    def _check_guidance(cls, value: float | dict[str, float]) -> float | dict[str, float]:
        for weight in value.values() if isinstance(value, dict) else (value,):
            if not math.isfinite(weight):
                raise ConfigurationError(f"guidance must be a finite number, got {weight}")
        return value

    @field_validator("guidance_interval")
    @classmethod
    def _check_interval(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= value[0] < value[1] <= 1:
            raise ConfigurationError(f"guidance_interval needs 0 <= from < to <= 1, got {value[0]:g},{value[1]:g}")
        return value

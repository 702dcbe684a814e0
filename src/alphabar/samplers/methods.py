"""Samplers by name, and which one `auto` takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..errors import unknown
from .adaptive import Adaptive
from .ancestral import Ancestral
from .base import Sampler
from .ddim import DDIM
from .deis import DEIS
from .dpm_2m import DPMSolver2M
from .dpm_2m_sde import DPMSolver2MSDE
from .dpm_2s import DPMSolver2S
from .dpm_3m import DPMSolver3M
from .euler import Euler
from .heun import Heun
from .plms import PLMS
from .unipc import UniPC


@dataclass(frozen=True)
class Options:
    """What some methods can be told: the variance of ancestral steps, DDIM's eta, the tolerance of the adaptive solver."""

    variance: str = "posterior"
    eta: float = 0.0
    tolerance: float = 0.05


METHODS: dict[str, Callable[[Options], Sampler]] = {
    "ancestral": lambda o: Ancestral(o.variance),
    "ddim": lambda o: DDIM(o.eta),
    "euler": lambda o: Euler(),
    "heun": lambda o: Heun(),
    "dpm++2s": lambda o: DPMSolver2S(),
    "dpm++2m": lambda o: DPMSolver2M(),
    "dpm++3m": lambda o: DPMSolver3M(),
    "dpm++2m-sde": lambda o: DPMSolver2MSDE(),
    "unipc": lambda o: UniPC(),
    "deis": lambda o: DEIS(),
    "plms": lambda o: PLMS(),
    "adaptive": lambda o: Adaptive(o.tolerance),
}


def build_sampler(name: str, options: Options) -> Sampler:
    """The sampler of this name. Raises ConfigurationError, naming the nearest one, if there is none."""
    if name not in METHODS:
        raise unknown("sampler", name, METHODS)
    return METHODS[name](options)


@dataclass(frozen=True)
class Choice:
    """A method and its grid by name."""

    sampler: str
    grid: str


# From which number of steps on, the later the stronger. Measured with the same model and noise for all:
# benchmarks/samplers.py, benchmarks/RESULTS.md.
AUTO = {
    1: Choice("unipc", "log_snr"),
    4: Choice("unipc", "few"),
    15: Choice("dpm++2m-sde", "karras"),
    40: Choice("dpm++2m-sde", "trailing"),
}


def auto_choice(steps: int) -> Choice:
    """What `auto` takes for this number of steps."""
    return AUTO[max(start for start in AUTO if start <= steps)]

"""alphabar: denoising diffusion from formula to picture.

    import alphabar

    for report in alphabar.train("photos", out="runs/photos", minutes=30):
        print(report)
    alphabar.load("runs/photos").sample(16).save("new.png")

Names are imported when they are first used, so that `import alphabar` is instant.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from . import tasks as tasks
    from .diffusion.denoiser import Denoiser as Denoiser
    from .errors import AlphabarError as AlphabarError
    from .generation.pipeline import Pipeline as Pipeline
    from .generation.pipeline import load as load
    from .plugins import load_plugin as load_plugin
    from .training.session import Session as Session
    from .training.session import prepare as prepare
    from .training.session import train as train

_HOMES = {
    "AlphabarError": "errors",
    "Denoiser": "diffusion.denoiser",
    "Pipeline": "generation.pipeline",
    "Session": "training.session",
    "load": "generation.pipeline",
    "load_plugin": "plugins",
    "prepare": "training.session",
    "train": "training.session",
}
__all__ = [
    "AlphabarError",
    "Denoiser",
    "Pipeline",
    "Session",
    "__version__",
    "load",
    "load_plugin",
    "prepare",
    "tasks",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "tasks":
        return import_module(".tasks", __name__)
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Fine-tuning: a new run that starts from the weights of another one."""

from __future__ import annotations

from typing import Any

from ..diffusion.denoiser import Denoiser
from ..errors import CheckpointError
from ..runs.checkpoint import Checkpoint


def inherited(origin: Checkpoint) -> dict[str, Any]:
    """The settings that the weights of a run ask for, and the size of its pictures; others come from the new run."""
    saved = origin.config.model_dump()
    _, height, width = origin.shape if len(origin.shape) == 3 else (0, 0, 0)
    size = {"data": {"size": [height, width], "channels": origin.shape[0]}} if height else {}
    return {key: saved[key] for key in ("preset", "network", "schedule", "diffusion")} | size


def take_weights(denoiser: Denoiser, origin: Checkpoint) -> list[str]:
    """Put the averaged weights of `origin` into a denoiser; returns the encoders that start fresh, as theirs do not fit or are
    of other classes.

    Raises CheckpointError if the network itself does not fit.
    """
    found, wanted = origin.tensors("ema"), denoiser.state_dict()
    fits = {name: t for name, t in found.items() if name in wanted and t.shape == wanted[name].shape}
    missing = [name for name in wanted if name not in fits]
    network = [name for name in missing if not name.startswith("encoders.")]
    network += [name for name in found if name.startswith("network.") and name not in wanted]
    if network:
        theirs, ours = (
            ", ".join(names) or "none" for names in (origin.config.conditions, dict(denoiser.encoders.items()))
        )
        raise CheckpointError(
            f"{origin.path} does not fit this network, for example {network[0]} (its conditions: {theirs}; here: {ours}): "
            "give the same conditions (--cond) and leave network settings out"
        )
    fresh = sorted({encoder_of(name) for name in missing} | other_classes(denoiser, origin))
    denoiser.load_state_dict(wanted | {name: t for name, t in fits.items() if encoder_of(name) not in fresh})
    return fresh


def other_classes(denoiser: Denoiser, origin: Checkpoint) -> set[str]:
    """The encoders with a row for each class, whose classes are other ones than those of `origin`, be they as many."""
    return {
        name
        for name, encoder in denoiser.encoders.items()
        if hasattr(encoder, "classes")
        and encoder.classes != getattr(origin.config.conditions.get(name), "classes", None)
    }


def encoder_of(name: str) -> str:
    """'encoders.kinds.class.embedding.weight' -> class; '' for a name of the network."""
    return name.split(".")[2] if name.startswith("encoders.") else ""

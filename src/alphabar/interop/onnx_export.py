"""A trained network as an ONNX file, with all that a sampler needs to know in its metadata; `examples/onnx_sampling.py` uses it.

Inputs: x_t (N, C, H, W); time (N,), what the network is told of t, see the metadata's network_times; for each class condition an
int64 (N,) of its name; and for other conditions the doors that their encoders open (`Cond`): vector, tokens, token_mask,
modulation, concat. Output: the network's raw output (N, C or 2C, H, W). N is free, and so is the number of tokens.
"""

from __future__ import annotations

import contextlib
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import __version__
from ..conditions.base import Encoder
from ..conditions.label import LabelEncoder
from ..diffusion.denoiser import Denoiser
from ..errors import ConfigurationError
from ..generation.pipeline import restore_denoiser
from ..networks.cond import Cond, merge
from ..runs.checkpoint import Checkpoint, find_checkpoint
from ..settings.config import Config
from ..storage import replacing

FORMAT = 1
KEY = "alphabar"
X_T, TIME, OUTPUT = "x_t", "time", "output"
SUFFIX = ".onnx"
DOORS = tuple(f.name for f in fields(Cond))
CONTINUOUS_POINTS = 1000  # a continuous schedule is told at this many times
LARGEST = 2**31 - 1  # bytes of one protobuf message
EXAMPLE_BATCH = 2  # of 1, the exporter would think that it never changes


class OnnxNetwork(nn.Module):
    """A denoiser's network with its class embeddings; everything else arrives encoded. doors: the names of what does, in order."""

    def __init__(self, denoiser: Denoiser, doors: Sequence[str]) -> None:
        super().__init__()
        self.network, self.doors = denoiser.network, tuple(doors)
        self.tables = nn.ModuleList(encoder.embedding for encoder in label_encoders(denoiser).values())

    def forward(self, x_t: Tensor, time: Tensor, *conditions: Tensor) -> Tensor:
        """The raw output (N, C or 2C, H, W). conditions: a number of each class condition, then the doors."""
        numbers, rest = conditions[: len(self.tables)], conditions[len(self.tables) :]
        classes = [Cond(vector=table(number)) for table, number in zip(self.tables, numbers, strict=True)]
        encoded = Cond(**dict(zip(self.doors, rest, strict=True)))
        output: Tensor = self.network(x_t, time, merge([*classes, encoded]))
        return output


def label_encoders(denoiser: Denoiser) -> dict[str, LabelEncoder]:
    """The class conditions by name."""
    return {name: encoder for name, encoder in denoiser.encoders.items() if isinstance(encoder, LabelEncoder)}


def other_encoders(denoiser: Denoiser) -> dict[str, Encoder]:
    """The conditions that are not classes, by name."""
    return {name: encoder for name, encoder in denoiser.encoders.items() if not isinstance(encoder, LabelEncoder)}


@torch.no_grad()
def condition_inputs(denoiser: Denoiser, values: Mapping[str, Any], n: int) -> dict[str, Tensor]:
    """The conditions of n pictures as inputs of the ONNX network by name; values as for `Denoiser.encode`, what is missing is null."""
    inputs = {
        name: torch.as_tensor(values.get(name, np.full(n, encoder.null)))
        for name, encoder in label_encoders(denoiser).items()
    }
    doors = merge(encoder(values.get(name), n) for name, encoder in other_encoders(denoiser).items())
    found = {name: getattr(doors, name) for name in DOORS}
    return inputs | {name: tensor for name, tensor in found.items() if tensor is not None}


def export_onnx(
    run: Path, out: Path, checkpoint: str | None = None, raw_weights: bool = False, licence: str = "unknown"
) -> None:
    """Write the network of a run as the ONNX file `out`. Raises ConfigurationError for what cannot be exported, and StorageError."""
    if out.suffix.lower() != SUFFIX or out.is_dir():
        raise ConfigurationError(f"{out}: an ONNX file needs a name that ends in {SUFFIX}")
    if out.exists():
        raise ConfigurationError(f"{out} exists already; alphabar writes over no model, so choose another")
    check_packages()
    found, part = find_checkpoint(run, checkpoint), "model" if raw_weights else "ema"
    if len(found.shape) != 3:
        raise ConfigurationError(
            f"{found.path} makes points of shape {found.shape}; only networks of pictures are exported"
        )
    denoiser = restore_denoiser(found, part).eval()
    check_names(denoiser)
    record = {"weights": "raw" if raw_weights else "ema", "model": found.hash(part), "license": licence}
    content = build_model(denoiser, found.shape, sampler_facts(denoiser, found) | record)
    with replacing(out) as stream:
        stream.write(content)


def check_packages() -> None:
    """Raise ConfigurationError if what writes ONNX is not installed."""
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        raise ConfigurationError("--to onnx needs onnx and onnxscript: pip install 'alphabar[onnx]'") from None


def check_names(denoiser: Denoiser) -> None:
    """Raise ConfigurationError if a class condition is called as another input is."""
    taken = sorted({X_T, TIME, OUTPUT, *DOORS} & set(label_encoders(denoiser)))
    if taken:
        raise ConfigurationError(
            f"the class condition {taken[0]!r} has the name of another input of the ONNX network; train with another name"
        )


def build_model(denoiser: Denoiser, shape: tuple[int, ...], facts: Mapping[str, Any]) -> bytes:
    """The ONNX model as bytes, `facts` being JSON in its metadata. Raises ConfigurationError where torch cannot export it."""
    model = trace(denoiser, shape)
    for node in model.graph.node:
        del node.metadata_props[:]  # stack traces of this machine
    model.metadata_props.add(key=KEY, value=json.dumps(facts))
    if model.ByteSize() > LARGEST:
        raise ConfigurationError(
            f"the network has {model.ByteSize() / 1e9:.1f} GB, but one ONNX file holds at most 2; use --to diffusers"
        )
    return bytes(model.SerializeToString())


def trace(denoiser: Denoiser, shape: tuple[int, ...]) -> Any:
    """The network as torch exports it, an onnx.ModelProto."""
    conditions = condition_inputs(denoiser, {}, EXAMPLE_BATCH)
    for name in {"tokens", "token_mask"} & set(conditions):
        conditions[name] = torch.cat([conditions[name]] * 2, dim=1)  # of length 1, too, it would seem never to change
    example = {X_T: torch.zeros(EXAMPLE_BATCH, *shape), TIME: torch.ones(EXAMPLE_BATCH), **conditions}
    free = (axes(X_T), axes(TIME), tuple(axes(name) for name in conditions))
    try:
        with quiet():
            program = torch.onnx.export(
                OnnxNetwork(denoiser, [name for name in conditions if name in DOORS]).eval(), tuple(example.values()), input_names=list(example),
                output_names=[OUTPUT], dynamic_shapes=free if conditions else free[:2], dynamo=True, verbose=False,
            )  # fmt: skip
    except torch.onnx.OnnxExporterError as error:
        why = str(error.__cause__ or error).partition("\n")[0]
        raise ConfigurationError(f"torch cannot export this network to ONNX: {why}") from None
    assert program is not None
    return program.model_proto


def axes(name: str) -> dict[int, Any]:
    """The axes of an input that may have any length."""
    batch = {0: torch.export.Dim("batch")}
    return batch | ({1: torch.export.Dim("length")} if name in ("tokens", "token_mask") else {})


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the exporter's notes on packages that it could use and names of axes that it does not."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


def sampler_facts(denoiser: Denoiser, found: Checkpoint) -> dict[str, Any]:
    """What a sampler must know, as plain values.

    alpha_bars and network_times have an entry for each t = k / T, k = 0..T: alpha_bar_t, and what the network is told there.
    """
    config: Config = found.config
    points = denoiser.schedule.steps or CONTINUOUS_POINTS
    grid = torch.arange(points + 1, dtype=torch.float64) / points
    return {
        "format": FORMAT,
        "alphabar": __version__,
        "shape": list(found.shape),
        "prediction": config.diffusion.prediction,
        "learned_variance": config.diffusion.learned_variance,
        "alpha_bars": denoiser.schedule.alpha_bar(grid).tolist(),
        "network_times": denoiser.network_time(grid, grid).tolist(),
        "classes": {name: encoder.classes for name, encoder in label_encoders(denoiser).items()},
        "null_class": {name: encoder.null for name, encoder in label_encoders(denoiser).items()},
        "conditions": list(other_encoders(denoiser)),
        "clip": config.sample.clip_for(len(found.shape)),
        "dynamic_quantile": config.sample.dynamic_quantile,
        "variance": config.sample.variance or ("learned" if config.diffusion.learned_variance else "posterior"),
    }

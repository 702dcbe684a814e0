"""How a network is computed: an immutable `Way`, applied by building another module that shares all parameters (`accelerate`).

Nothing of the original changes, so two ways of one network can be used side by side, in two threads too.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..diffusion.denoiser import Denoiser
from ..errors import unknown
from .fused_layers import FUSED, NATIVE

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LAYERS: dict[str, dict[type[nn.Module], type[nn.Module]]] = {"native": NATIVE, "fused": FUSED}
"""The layers that each kind of kernels exchanges."""


@dataclass(frozen=True)
class Way:
    """How a network is computed: the precision of its products, and whether by torch's own kernels or the fused ones.

    Raises ConfigurationError for unknown ones.
    """

    precision: str = "float32"
    kernels: str = "native"

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise unknown("precision", self.precision, PRECISIONS)
        if self.kernels not in LAYERS:
            raise unknown("kernels", self.kernels, LAYERS)

    def __str__(self) -> str:
        return self.precision + (", fused kernels" if self.kernels == "fused" else "")

    @property
    def dtype(self) -> torch.dtype:
        """The type of the products."""
        return PRECISIONS[self.precision]


PLAIN = Way()


class Accelerated(nn.Module):
    """A network that is computed in a way of its own: network(x, time, cond) -> (N, C, ...), with the parameters and names of `original`.

    Other attributes are those of the original. `rounded`: the weights of products are copies in the precision of the way.
    """

    def __init__(self, original: nn.Module, way: Way, rounded: bool = False) -> None:
        super().__init__()
        computed = view(original, LAYERS[way.kernels], way.dtype if rounded else None, {})
        references = {"way": way, "rounded": rounded, "original": original, "computed": computed}
        vars(self).update(references)  # modules that are no children, so that names and parameters stand once
        self._parameters, self._buffers, self._modules = computed._parameters, computed._buffers, computed._modules
        self.training = original.training

    def forward(self, x: Tensor, time: Tensor, cond: Any) -> Tensor:
        """The output of the network, computed this way."""
        way: Way = vars(self)["way"]
        with autocast(x.device.type, way.dtype):
            y: Tensor = vars(self)["computed"](x, time, cond)
        return y

    def train(self, mode: bool = True) -> Accelerated:
        """Training or evaluation mode, of this module only."""
        vars(self)["computed"].train(mode)
        self.training = mode
        return self

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if "original" not in vars(self):  # while it is unpickled
                raise
            return getattr(vars(self)["original"], name)


def autocast(device: str, precision: torch.dtype) -> AbstractContextManager[Any]:
    """The context in which a network's products have this precision; float32 needs none where the device has no autocast."""
    plain = precision == torch.float32
    if plain and not torch.amp.is_autocast_available(device):
        return nullcontext()
    return torch.autocast(device, dtype=precision, enabled=not plain)


def accelerate(network: nn.Module, way: Way, rounded: bool = False) -> Accelerated:
    """A module that computes the network in this way. It shares the parameters and buffers of the network, which stays as it is.

    Layers of `networks/layers.py` are exchanged for their faster forms; all others are computed as they are. Parameters that are
    set or loaded later, and hooks, count for both, but for full backward hooks; layers that are replaced later do not. rounded: the weights of convolutions and linear
    layers are copies in the precision of the way, which saves rounding them at every call: for sampling only.
    """
    return Accelerated(original(network), way, rounded)


def original(network: nn.Module) -> nn.Module:
    """The network that was accelerated; itself where it was not."""
    plain: nn.Module = network.original if isinstance(network, Accelerated) else network
    return plain


def view(
    module: nn.Module, layers: dict[type[nn.Module], type[nn.Module]], rounded: torch.dtype | None, known: dict[int, Any]
) -> nn.Module:  # fmt: skip
    """A module with other children and perhaps another class that shares everything else: parameters, buffers and hooks by reference."""
    if id(module) in known:
        seen: nn.Module = known[id(module)]
        return seen
    if isinstance(module, torch.jit.ScriptModule):
        return module
    kind = layers.get(type(module), type(module))
    copy: nn.Module = kind.__new__(kind)
    known[id(module)] = copy
    vars(copy).update(vars(module))
    children = {
        name: None if child is None else view(child, layers, rounded, known) for name, child in module._modules.items()
    }
    vars(copy)["_modules"] = children
    if rounded is not None and isinstance(module, nn.Conv2d | nn.Linear):
        vars(copy)["_parameters"] = {
            name: None if p is None else round_to(p, rounded) for name, p in module._parameters.items()
        }
    return copy


def watchable(denoiser: Denoiser) -> Denoiser:
    """The same denoiser, computed layer by layer, with hooks of its own: those that are added to it are not seen by other users of its
    network."""
    way = way_of(denoiser)
    copy = view(original(denoiser.network), {}, None, {})
    for part in copy.modules():
        for name in ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs"):
            vars(part)[name] = type(vars(part)[name])(vars(part)[name])
    return denoiser.with_network(accelerate(copy, replace(way, kernels="native")))


def round_to(parameter: nn.Parameter, dtype: torch.dtype) -> nn.Parameter:
    """A copy in another precision."""
    return nn.Parameter(parameter.detach().to(dtype), requires_grad=parameter.requires_grad)


def with_way(denoiser: Denoiser, way: Way, rounded: bool = False) -> Denoiser:
    """The same denoiser with a network that is computed in this way; weights, encoders and schedule are shared."""
    return denoiser.with_network(accelerate(denoiser.network, way, rounded))


def way_of(denoiser: Denoiser) -> Way:
    """The way in which its network is computed; plain float32 unless `with_way` set another."""
    way: Way = denoiser.network.way if isinstance(denoiser.network, Accelerated) else PLAIN
    return way


def in_float32(denoiser: Denoiser) -> Denoiser:
    """The same denoiser in float32, with the same kernels and the weights before any rounding: a sum over all pixels, or a way to noise
    and back, needs it."""
    return with_way(denoiser, replace(way_of(denoiser), precision="float32"))


def is_rounded(denoiser: Denoiser) -> bool:
    """Whether its weights are copies in lower precision."""
    return isinstance(denoiser.network, Accelerated) and bool(denoiser.network.rounded)


def has_fused_form(network: nn.Module) -> bool:
    """Whether the fused kernels would compute any part of this network."""
    return any(type(part) in FUSED for part in original(network).modules())

"""Muon: for weights that are matrices, a step of equal size in all directions; AdamW for all else.

With gradient G, momentum B <- mu B + (1 - mu) G and U = mu B + (1 - mu) G, a matrix moves by

    W <- W - rate 0.2 sqrt(max(m, n)) orthogonalized(U)

where orthogonalized(U) = P Q^T for the singular value decomposition U = P S Q^T: directions in which gradients are always small move as far as
the others. Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; the factor, which makes entries move as far
as those of AdamW at the same rate, is that of Liu et al. 2025, "Muon is scalable for LLM training", eq. 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..networks.base import end_weights

MOMENTUM = 0.95
QUINTIC = (3.4445, -4.7750, 2.0315)  # Jordan et al. 2024: the steepest at 0 that keeps singular values near 1
ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Moves matrices. Convolutions count as matrices (out, in times height times width); all else is for another optimizer."""

    def __init__(self, matrices: Sequence[Tensor], lr: float, weight_decay: float = 0.0) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Move all matrices that have a gradient, after the closure, if there is one, has computed the gradients and the loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._move([p for p in group["params"] if p.grad is not None], group["lr"], group["weight_decay"])
        return loss

    def _move(self, matrices: list[Tensor], rate: float, decay: float) -> None:
        alike: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
        for p, direction in zip(matrices, self._directions(matrices), strict=True):
            shape = (len(p), p[0].numel())
            alike.setdefault(shape, []).append((p, direction.reshape(shape)))
        for shape, pairs in alike.items():  # many small products at once
            turned = orthogonalized(torch.stack([direction for _, direction in pairs]))
            for (p, _), direction in zip(pairs, turned, strict=True):
                p.mul_(1 - rate * decay).add_(direction.reshape(p.shape), alpha=-rate * 0.2 * max(shape) ** 0.5)

    def _directions(self, parameters: list[Tensor]) -> tuple[Tensor, ...]:
        """Nesterov's momentum of each gradient."""
        for p in parameters:
            if not self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        if not parameters:
            return ()
        gradients = [p.grad for p in parameters if p.grad is not None]
        momenta: list[Tensor] = [self.state[p]["momentum"] for p in parameters]
        torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
        return tuple(torch._foreach_lerp(gradients, momenta, MOMENTUM))


def list_matrices(module: nn.Module) -> list[Tensor]:
    """The trained weights of linear layers and convolutions, but those of a network's ends.

    The first and last layer, whose sides are data and not features, stay with AdamW, as do tables and vectors (Jordan et al. 2024).
    """
    ends = {weight for network in module.modules() for weight in end_weights(network)}
    weights = [part.weight for part in module.modules() if isinstance(part, nn.Linear | nn.Conv2d)]
    weights = [weight for weight in weights if weight not in ends]
    return [weight for weight in dict.fromkeys(weights) if weight.requires_grad]  # a tied one once


def orthogonalized(matrices: Tensor) -> Tensor:
    """matrices (N, m, n) -> (N, m, n) float32 with the same singular vectors and singular values of about 1 (0.7 to 1.2).

    Five steps X <- (a + b G + c G^2) X with G = X X^T, an odd polynomial of each singular value; values below 1e-3 of the norm stay
    smaller. As G follows from the G before it, the long side is met only at both ends: two fifths of the work where n is 9 m.
    """
    a, b, c = QUINTIC
    tall = matrices.size(-2) > matrices.size(-1)
    x = (matrices.mT if tall else matrices).float()
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    squares = x @ x.mT
    product = torch.eye(x.size(-2), device=x.device)
    for _ in range(ITERATIONS):
        polynomial = torch.baddbmm(squares, squares, squares, beta=b, alpha=c)
        polynomial.diagonal(dim1=-2, dim2=-1).add_(a)
        product = polynomial @ product
        squares = polynomial @ squares @ polynomial
    x = product @ x
    return x.mT if tall else x

"""The optimizer Muon (Keller Jordan, 2024) for hidden matrices. It orthogonalises the momentum by Newton-Schulz steps."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class Muon(torch.optim.Optimizer):
    """The optimizer Muon. All weights must be matrices. A weight with an attribute ``parts`` is a stack of this many matrices."""

    def __init__(self, weights: Iterable[Tensor], lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.01) -> None:
        super().__init__(weights, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update the weights. Matrices of the same shape are processed together."""
        for group in self.param_groups:
            shapes: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = {}
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(weight)
                state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
                update = weight.grad.lerp(state["momentum"], group["momentum"])
                parts = getattr(weight, "parts", 1)
                for part, change in zip(weight.data.chunk(parts), update.chunk(parts), strict=True):
                    shapes.setdefault(tuple(part.shape), []).append((part, change))
            for shape, pairs in shapes.items():
                changes = _orthogonal(torch.stack([change for _, change in pairs]))
                rate = group["lr"] * max(1, shape[0] / shape[1]) ** 0.5
                for (part, _), change in zip(pairs, changes, strict=True):
                    part.mul_(1 - group["lr"] * group["weight_decay"])
                    part.add_(change.to(part.dtype), alpha=-rate)


def _orthogonal(matrices: Tensor) -> Tensor:
    tall = matrices.shape[1] > matrices.shape[2]
    values = matrices.mT if tall else matrices
    if values.is_cuda:
        values = values.bfloat16()
    values = values / (values.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        square = values @ values.mT
        values = 3.4445 * values + (-4.7750 * square + 2.0315 * square @ square) @ values
    return values.mT if tall else values

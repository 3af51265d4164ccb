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
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if not weights:
                continue
            gradients = [weight.grad for weight in weights]
            for weight in weights:
                if "momentum" not in self.state[weight]:
                    self.state[weight]["momentum"] = torch.zeros_like(weight)
            momenta = [self.state[weight]["momentum"] for weight in weights]
            torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
            updates = torch._foreach_lerp(gradients, momenta, group["momentum"])
            for weight, update in zip(weights, updates, strict=True):
                parts = getattr(weight, "parts", 1)
                for part, change in zip(weight.data.chunk(parts), update.chunk(parts), strict=True):
                    shapes.setdefault(tuple(part.shape), []).append((part, change))
            for shape, pairs in shapes.items():
                changes = _orthogonal(torch.stack([change for _, change in pairs]))
                rate = group["lr"] * max(1, shape[0] / shape[1]) ** 0.5
                parted = [part for part, _ in pairs]
                torch._foreach_mul_(parted, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(parted, list(changes.to(parted[0].dtype).unbind()), alpha=-rate)


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

"""Muon: momentum whose matrices are made orthogonal before they change the weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of Jordan's polynomial, which takes small singular values up as fast as can be."""
ITERATIONS = 5
TYPICAL_UPDATE = 0.2
"""Root mean square of AdamW's updates as multiples of its rate, by Liu et al.; those of matrices are scaled to it."""


class Muon(torch.optim.Optimizer):
    """Trains matrices by Muon and everything else by AdamW.

    The update of a matrix is its Nesterov momentum with all singular values made about 1 (Jordan et al. 2024,
    kellerjordan.github.io/posts/muon), so that directions in which gradients are small count as much as the others, scaled to
    the root mean square that AdamW's updates have (Liu et al. 2025, arXiv 2502.16982). The weight of a convolution is a matrix
    of its first axis by all others. ``torch.optim.Muon`` does this for two axes only, and without AdamW beside it.

    Args:
        matrices: weights with two axes or more, first output (or, transposed, input) channels.
        others: groups for AdamW, each with its ``weight_decay``.
        lr: learning rate of AdamW.
        share: of that rate which the matrices have.
        momentum: share of the former mean gradient that each step keeps.
        weight_decay: of the matrices, decoupled and multiplied by the rate.
    """

    def __init__(
        self,
        matrices: Sequence[nn.Parameter],
        others: Sequence[dict[str, Any]],
        lr: float,
        share: float,
        momentum: float,
        weight_decay: float,
    ) -> None:
        first = {"params": list(matrices), "share": share, "momentum": momentum, "weight_decay": weight_decay}
        defaults = {"lr": lr, "share": 1.0, "momentum": None, "weight_decay": 0.0, "fused": True}
        groups = [first, *others]
        super().__init__([group for group in groups if group["params"]], defaults)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Change the weights; parameters without a gradient stay as they are."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            pairs = [(parameter, parameter.grad) for parameter in group["params"] if parameter.grad is not None]
            if group["momentum"] is None:
                self._step_by_adamw(pairs, group)
            else:
                self._step_by_muon(pairs, group)
        return loss

    def _step_by_muon(self, pairs: list[tuple[Tensor, Tensor]], group: dict[str, Any]) -> None:
        momentum, rate = group["momentum"], group["lr"] * group["share"]
        directions = []
        for parameter, gradient in pairs:
            state = self.state[parameter]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(gradient)
            mean = state["momentum_buffer"].lerp_(gradient, 1 - momentum)
            directions.append(_rows(gradient.lerp(mean, momentum)))
        for (parameter, _), update in zip(pairs, orthogonalise(directions), strict=True):
            parameter.mul_(1 - rate * group["weight_decay"])
            alpha = -rate * TYPICAL_UPDATE * max(update.shape) ** 0.5
            parameter.add_(_as_weight(update, parameter.shape), alpha=alpha)

    def _step_by_adamw(self, pairs: list[tuple[Tensor, Tensor]], group: dict[str, Any]) -> None:
        for parameter, _ in pairs:
            if not self.state[parameter]:
                device = parameter.device
                self.state[parameter] = {
                    "step": torch.zeros((), dtype=torch.float32, device=device),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }
        states = [self.state[parameter] for parameter, _ in pairs]
        adamw(
            [parameter for parameter, _ in pairs],
            [gradient for _, gradient in pairs],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=group["fused"],
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=1e-8,
            maximize=False,
        )


def orthogonalise(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Return matrices with the same singular vectors and singular values of about 1; the very smallest stay smaller.

    By five Newton-Schulz iterations X <- a X + b (X X^T) X + c (X X^T)^2 X from X of Frobenius norm 1. All of them are functions
    of the first X X^T, so they are made with that, which has the size of the smaller side, for all matrices of one such size
    together; the matrix itself is multiplied once. A matrix of zeros stays one.

    Args:
        matrices: each ``(rows, columns)``, float32.
    """
    a, b, c = QUINTIC
    found: dict[int, Tensor] = {}
    for side in sorted({min(matrix.shape) for matrix in matrices}):
        members = [index for index, matrix in enumerate(matrices) if min(matrix.shape) == side]
        wide = [matrices[index] if matrices[index].shape[0] == side else matrices[index].T for index in members]
        gram = torch.stack([matrix @ matrix.T for matrix in wide])
        size = gram.diagonal(dim1=1, dim2=2).sum(1).clamp_(min=1e-30)[:, None, None]
        gram = gram / size
        factor = torch.eye(side, dtype=gram.dtype, device=gram.device) / size.sqrt()
        for _ in range(ITERATIONS):
            polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
            polynomial.diagonal(dim1=1, dim2=2).add_(a)
            factor = torch.bmm(polynomial, factor)
            gram = torch.bmm(torch.bmm(polynomial, gram), polynomial)
        for index, matrix, by in zip(members, wide, factor, strict=True):
            update = by @ matrix
            found[index] = update if matrix is matrices[index] else update.T
    return [found[index] for index in range(len(matrices))]


def _rows(weight: Tensor) -> Tensor:
    """Return a weight as a matrix with columns in the order of channels-last memory: without a copy where it lies so."""
    return weight.movedim(1, -1).reshape(len(weight), -1)


def _as_weight(matrix: Tensor, shape: torch.Size) -> Tensor:
    return matrix.reshape(shape[0], *shape[2:], shape[1]).movedim(-1, 1)

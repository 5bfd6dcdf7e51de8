"""Preconditioned conjugate gradients for many right-hand sides at once.

(A + λ) x = v for one positive semi-definite A: every right-hand side has its own step sizes, and
all go through the product with A as one block. Vectors are given by layer,
[Q, groups, D_out, D_in].

Source: Hestenes & Stiefel 1952; the residual is the recursion's, in the norm of v.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Vectors = Mapping[str, Tensor]
_Operator = Callable[[Vectors], Vectors]


@dataclass(frozen=True)
class _Solution:
    """What the iteration found.

    Attributes:
        values: x by layer, [Q, groups, D_out, D_in].
        residuals: ‖v − (A + λ) x‖ / ‖v‖, [Q]; 0 where v is 0.
        iterations: Products each right-hand side took part in, [Q].
    """

    values: dict[str, Tensor]
    residuals: Tensor
    iterations: Tensor


def conjugate_gradients(
    operator: _Operator,
    precondition: _Operator,
    right: Vectors,
    *,
    tolerance: float,
    max_iterations: int,
    report: Callable[[int, float], None] | None = None,
) -> _Solution:
    """Solve from x = 0 on, until every residual is small enough.

    The first step is the preconditioner's answer times the factor that suits it best, so that a
    preconditioner of the wrong size costs nothing. In the norm of A + λ the error falls with
    every step; the residual may rise for a while. A right-hand side stops at `tolerance`, or
    where the operator has no positive curvature along its direction, as a loss that is not
    convex in the outputs may have.

    Args:
        operator: (A + λ) applied to some of the right-hand sides' vectors.
        precondition: An approximate inverse, symmetric and positive.
        right: v.
        tolerance: Of the relative residual.
        max_iterations: Bound on the iterations.
        report: Told the iteration and the largest residual.
    """
    norms = _products(right, right).sqrt()
    scale = norms.where(norms > 0, 1.0)
    solution = {name: torch.zeros_like(one) for name, one in right.items()}
    residual = {name: one.clone() for name, one in right.items()}
    direction = {name: one.clone() for name, one in precondition(residual).items()}
    inner = _products(residual, direction)
    residuals = norms / scale
    iterations = torch.zeros(len(residuals), dtype=torch.long, device=residuals.device)
    active = (residuals > tolerance) & (norms > 0)
    for number in range(max_iterations):
        if report is not None:
            report(number, float(residuals.max()))
        rows = active.nonzero()[:, 0]
        if len(rows) == 0:
            break
        moved = {name: one[rows] for name, one in direction.items()}
        image = operator(moved)
        curvature = _products(moved, image)
        bent = curvature > 0
        step = torch.where(bent, inner[rows] / curvature.where(bent, 1.0), 0.0)
        for name, one in moved.items():
            solution[name][rows] += _spread(step, one) * one
            residual[name][rows] -= _spread(step, one) * image[name]
        left = {name: one[rows] for name, one in residual.items()}
        turned = precondition(left)
        following = _products(left, turned)
        ratio = following / inner[rows]
        for name, one in moved.items():
            direction[name][rows] = turned[name] + _spread(ratio, one) * one
        inner[rows] = following
        residuals[rows] = _products(left, left).sqrt() / scale[rows]
        iterations[rows] += 1
        active[rows] = bent & (residuals[rows] > tolerance)
    if report is not None and bool(active.any()):
        report(max_iterations, float(residuals.max()))
    return _Solution(solution, residuals, iterations)


def _products(one: Vectors, other: Vectors) -> Tensor:
    """Return the inner product of each right-hand side's vectors, [Q]."""
    return torch.stack(
        [(one[name].flatten(1) * other[name].flatten(1)).sum(1) for name in one]
    ).sum(0)


def _spread(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.dim() - 1))

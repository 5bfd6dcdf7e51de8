"""How far a harm hangs on the checkpoints that were saved and the queries that were asked.

harm(m) = Σ_q h_q(m), and h_q(m) is a sum over segments of means over the segment's checkpoints:

- checkpoints: Var₁ = Σ_ℓ s²_ℓ / C_ℓ, with s_ℓ the standard deviation over the C_ℓ checkpoints of
  a segment of their harm. The queries are summed before, because they move together.
- queries: Var₂ = Q · s², with s the standard deviation of h_q. It is what the jackknife gives for
  a sum, and the bootstrap but for a factor of (Q − 1)/Q.

harm_error = √(Var₁ + Var₂). Independently trained runs, where there are any, are one more mean:
`standard_error_of_mean` of the harm by run, [runs, n]. It holds the spread over checkpoints
already, and so takes the place of Var₁.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

_STABLE_ERRORS = 2.0
"""Standard errors that must lie between a value and 0 for its sign to count as stable."""


def standard_error_of_mean(values: Tensor) -> Tensor:
    """Return the standard error of the mean of K values, [K, n] -> [n].

    It is 0 for K = 1: one value has no spread to tell from.
    """
    if len(values) == 1:
        return torch.zeros_like(values[0])
    return values.std(0, correction=1) / math.sqrt(len(values))


def standard_error_of_sum(values: Tensor) -> Tensor:
    """Return the standard error of the sum of K values, [K, n] -> [n]; 0 for K = 1."""
    return len(values) * standard_error_of_mean(values)


def in_quadrature(errors: Iterable[Tensor]) -> Tensor:
    """Return the error of a sum of independent terms, √Σ error²."""
    return torch.stack([error.square() for error in errors]).sum(0).sqrt()


def sign_is_stable(values: Tensor, errors: Tensor) -> Tensor:
    """Return whether each value is more than `_STABLE_ERRORS` of its errors away from 0."""
    return values.abs() > _STABLE_ERRORS * errors

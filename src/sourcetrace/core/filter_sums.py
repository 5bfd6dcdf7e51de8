"""Filters of the curvature as short sums of outer products, F ≈ Σ_r u_r w_rᵀ.

F_r and F_S are smooth functions of Λ, and Λ is near an outer product, so a few terms do. In the
eigenbasis a filtered outer product is then a sum of as many,

    F ∘ (g aᵀ) ≈ Σ_r (u_r ∘ g)(w_r ∘ a)ᵀ ,

and its product with another one costs r (D_out + D_in) multiplications instead of D_out · D_in.

What counts is the error of a score, Σ_jk F_jk g_j a_k g'_j a'_k, not of F. So F is approximated
in the norm in which entry jk weighs as much as it contributes to scores, d_j |F_jk| e_k with
d² = E[g²] E[g'²] and e² = E[a²] E[a'²]: the truncated singular value decomposition of
diag(d) F diag(e) is the best sum of that length, and what it leaves out, relative to the whole,
is the relative error of the scores where coordinates are uncorrelated. *Derived*;
`core.short_walk` checks it on scores of the run itself.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sourcetrace.core.factored_gradient import FactoredGradient

_OVERSAMPLING = 8
_POWER_ITERATIONS = 2

_FLOOR = 1e-4
"""Smallest weight of a coordinate, in units of the largest: an odd query may lie where others
have next to nothing."""


@dataclass(frozen=True)
class Weights:
    """How much a coordinate counts: d [groups, D_out], e [groups, D_in], all > 0."""

    outputs: Tensor
    inputs: Tensor

    @classmethod
    def of(cls, *energies: "Tensor | FactoredGradient") -> "Weights":
        """Return d and e from what E[x²] is of each factor of a score.

        Args:
            energies: E[x²], [groups, D_out, D_in], or the vectors x themselves; only their
                marginals count.
        """
        marginals = [_marginals(one) for one in energies]
        outputs = math.prod((one for one, _ in marginals), start=torch.ones(()))
        inputs = math.prod((one for _, one in marginals), start=torch.ones(()))
        return cls(_floored(outputs.sqrt()), _floored(inputs.sqrt()))


@dataclass(frozen=True)
class FilterSum:
    """Σ_r u_r w_rᵀ: outputs u [groups, R, D_out], inputs w [groups, R, D_in]."""

    outputs: Tensor
    inputs: Tensor

    def __len__(self) -> int:
        return self.outputs.shape[1]

    def apply(self, rotated: FactoredGradient) -> FactoredGradient:
        """Return F ∘ V of every V, a sum of S terms, in the eigenbasis: a sum of R · S terms."""
        return FactoredGradient(
            _each_pair(rotated.inputs, self.inputs),
            _each_pair(rotated.output_gradients, self.outputs),
        )


def filter_sum(
    values: Tensor, weights: Weights, *, tolerance: float, longest: int
) -> FilterSum | None:
    """Return the shortest sum within a tolerance, or None if it takes more than `longest` terms.

    Args:
        values: F at every eigenvalue, [groups, D_out, D_in].
        weights: How much its coordinates count.
        tolerance: Of the weighted norm of what is left out, relative to the whole.
        longest: Bound on the terms.
    """
    # float64: what is left out is found as a difference of squares.
    outputs, inputs = weights.outputs.double(), weights.inputs.double()
    weighted = outputs.unsqueeze(-1) * values.double() * inputs.unsqueeze(-2)
    total = weighted.square().sum()
    longest = min(longest, *values.shape[-2:])
    length = min(16, longest)
    while True:
        left, right = _leading(weighted, min(length + _OVERSAMPLING, *values.shape[-2:]))
        # Terms come in the order of their size, in every group.
        sizes = right.square().sum(-1)
        left_out = (total - sizes.sum(0).cumsum(0)) / total.where(total > 0, 1.0)
        enough = (left_out[:length] <= tolerance**2).nonzero()
        if len(enough):
            terms = int(enough[0]) + 1
            return FilterSum(
                (left[:, :terms] / outputs.unsqueeze(-2)).to(values.dtype),
                (right[:, :terms] / inputs.unsqueeze(-2)).to(values.dtype),
            )
        if length == longest:
            return None
        length = min(2 * length, longest)


def shortened(sums: FactoredGradient, weights: Weights, *, tolerance: float) -> FactoredGradient:
    """Return sums of fewer terms: of every row what it needs, the rest of its terms 0.

    The terms of every row are joined anew: with the QR decompositions of its weighted factors,
    here by way of their Gram matrices in float64, a row's singular value decomposition is that
    of a matrix of R × R.

    Args:
        sums: R terms, in the coordinates that the weights are of.
        weights: How much the coordinates count.
        tolerance: Of the weighted norm of what is left out of a row, relative to that row.
    """
    left, left_inverse = _roots(sums.output_gradients * weights.outputs.unsqueeze(-2))
    right, right_inverse = _roots(sums.inputs * weights.inputs.unsqueeze(-2))
    # Σ_r l_r r_rᵀ = Y_Lᵀ (C_L C_Rᵀ) Y_R.
    first, sizes, second = torch.linalg.svd(left @ right.mT)
    # A row's own tolerance, so that the rows beside it do not change it.
    energy = sizes.square().sum(1)
    total = energy.sum(1, keepdim=True)
    left_out = total - (energy.cumsum(1) - energy)
    needed = left_out > tolerance**2 * total
    terms = max(1, int(needed.sum(1).max())) if len(energy) else 1
    sizes = sizes * needed.unsqueeze(1)
    roots = sizes[..., :terms].sqrt().unsqueeze(-1)
    outputs = roots * (first[..., :terms].mT @ left_inverse)
    inputs = roots * (second[..., :terms, :] @ right_inverse)
    return FactoredGradient(
        inputs.to(sums.inputs.dtype) @ sums.inputs,
        outputs.to(sums.output_gradients.dtype) @ sums.output_gradients,
    )


def _roots(factors: Tensor) -> tuple[Tensor, Tensor]:
    """Return C and M of factors X [*, R, D]: Y = M X has orthonormal rows, and X = Cᵀ Y.

    With X Xᵀ = E diag(s²) Eᵀ they are diag(s) Eᵀ and diag(1/s) Eᵀ.
    """
    factors = factors.double()
    squares, vectors = torch.linalg.eigh(factors @ factors.mT)
    largest = squares[..., -1:].clamp(min=torch.finfo(squares.dtype).tiny)
    kept = squares > 1e-14 * largest
    nothing = torch.zeros_like(squares)
    roots = torch.where(kept, squares, nothing).sqrt().unsqueeze(-1)
    inverse = torch.where(kept, squares.where(kept, 1.0).rsqrt(), nothing).unsqueeze(-1)
    return roots * vectors.mT, inverse * vectors.mT


def _leading(matrices: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the leading singular terms of [groups, D_out, D_in], left and right [groups, k, D].

    A random subspace, improved by power iterations (Halko, Martinsson & Tropp 2011); the right
    factors carry the singular values.
    """
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(matrices.shape[-1], count, generator=generator, dtype=torch.float64)
    basis = torch.linalg.qr(matrices @ start.to(matrices.device))[0]
    for _ in range(_POWER_ITERATIONS):
        basis = torch.linalg.qr(matrices.mT @ basis)[0]
        basis = torch.linalg.qr(matrices @ basis)[0]
    projected = basis.mT @ matrices
    _, vectors = torch.linalg.eigh(projected @ projected.mT)
    descending = vectors.flip(-1)
    return (basis @ descending).mT, descending.mT @ projected


def _each_pair(terms: Tensor, factors: Tensor) -> Tensor:
    """Return [N, groups, S, D] times [groups, R, D], entry by entry: [N, groups, S · R, D]."""
    return (terms.unsqueeze(3) * factors.unsqueeze(1)).flatten(2, 3)


def _marginals(energy: Tensor | FactoredGradient) -> tuple[Tensor, Tensor]:
    """Return Σ_k E[x_jk²] and Σ_j E[x_jk²], each relative to its largest."""
    if isinstance(energy, FactoredGradient):
        inputs, outputs = energy.inputs, energy.output_gradients
        by_output = ((inputs @ inputs.mT @ outputs) * outputs).sum((0, 2))
        by_input = ((outputs @ outputs.mT @ inputs) * inputs).sum((0, 2))
    else:
        by_output, by_input = energy.sum(-1), energy.sum(-2)
    return _relative(by_output), _relative(by_input)


def _relative(values: Tensor) -> Tensor:
    # Products of small squares would leave float32.
    return values.clamp_min(0) / values.max().clamp_min(torch.finfo(values.dtype).tiny)


def _floored(weights: Tensor) -> Tensor:
    largest = weights.amax(-1, keepdim=True)
    # A group without any energy: whatever is done there adds nothing.
    return weights.clamp_min(_FLOOR * largest).where(largest > 0, torch.ones_like(weights))

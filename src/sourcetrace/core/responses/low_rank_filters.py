"""Filters of the curvature as low-rank sums of outer products, F ≈ Σ_r u_r w_rᵀ.

F_r and F_S are smooth functions of Λ, and Λ is near an outer product, so a few terms do. In the
eigenbasis a filtered outer product is then a sum of as many,

    F ∘ (g aᵀ) ≈ Σ_r (u_r ∘ g)(w_r ∘ a)ᵀ ,

and its product with another one costs r (D_out + D_in) multiplications instead of D_out · D_in.

What counts is the error of a score, Σ_jk F_jk g_j a_k g'_j a'_k, not of F. So F is approximated
in the norm in which entry jk weighs as much as it contributes to scores, d_j |F_jk| e_k with
d² = E[g²] E[g'²] and e² = E[a²] E[a'²]: the truncated singular value decomposition of
diag(d) F diag(e) is the best sum of that length, and what it leaves out, relative to the whole,
is the relative error of the scores where coordinates are uncorrelated. *Derived*;
`core.responses.low_rank_responses` checks it on scores of the run itself.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sourcetrace.core.gradients.factored import FactoredGradient, each_pair
from sourcetrace.core.responses.leading_terms import shortest_sum

_FIRST_LENGTH = 16

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

    def undone(self, weighted: FactoredGradient) -> FactoredGradient:
        """Return sums without the weights that they were multiplied with."""
        return FactoredGradient(
            weighted.inputs / self.inputs.unsqueeze(-2),
            weighted.output_gradients / self.outputs.unsqueeze(-2),
        )


@dataclass(frozen=True)
class FilterSum:
    """Σ_r u_r w_rᵀ: outputs u [groups, R, D_out], inputs w [groups, R, D_in]."""

    outputs: Tensor
    inputs: Tensor

    @classmethod
    def of(
        cls,
        values: Tensor,
        weights: Weights | None,
        *,
        tolerance: float,
        longest: int,
        fewest: int = 1,
    ) -> "FilterSum | None":
        """Return the shortest sum within a tolerance; None if it takes more than `longest` terms.

        None as well where that is fewer than `fewest`: written out, a filter is exact.

        Args:
            values: F at every eigenvalue, [groups, D_out, D_in].
            weights: How much its coordinates count; None for all alike.
            tolerance: Of the weighted norm of what is left out, relative to the whole.
            longest: Bound on the terms.
            fewest: Terms that it has, even where fewer would do.
        """
        one = values.new_ones(1)
        weights = weights or Weights(one, one)
        outputs, inputs = weights.outputs.double(), weights.inputs.double()
        weighted = outputs.unsqueeze(-1) * values.double() * inputs.unsqueeze(-2)
        found = shortest_sum(weighted, _FIRST_LENGTH, longest, tolerance=tolerance, fewest=fewest)
        if found is None:
            return None
        left, right = found
        return cls(
            (left / outputs.unsqueeze(-2)).to(values.dtype),
            (right / inputs.unsqueeze(-2)).to(values.dtype),
        )

    def __len__(self) -> int:
        return self.outputs.shape[1]

    def written_out(self) -> Tensor:
        """Return the sum at every eigenvalue, [groups, D_out, D_in]."""
        return self.outputs.mT @ self.inputs

    def apply(self, rotated: FactoredGradient) -> FactoredGradient:
        """Return F ∘ V of every V, a sum of S terms, in the eigenbasis: a sum of R · S terms."""
        return FactoredGradient(
            each_pair(rotated.inputs, self.inputs.unsqueeze(0)),
            each_pair(rotated.output_gradients, self.outputs.unsqueeze(0)),
        )


def filtered_sums(
    values: Tensor,
    rotated: FactoredGradient,
    weights: Weights,
    *,
    longest: int,
    tolerance: float,
) -> FactoredGradient | None:
    """Return F ∘ V of sums of several terms as sums of about as many, not of R · S.

    Some rows at a time are written out, filtered exactly, and taken apart again.

    Args:
        values: F at every eigenvalue, [groups, D_out, D_in].
        rotated: V in the eigenbasis.
        weights: How much its coordinates count.
        longest: Bound on the terms.
        tolerance: Of the weighted norm of what is left out of a row, relative to that row.

    Returns:
        The sums; None if a row needs more than `longest` terms.
    """
    weighted = values * weights.outputs.unsqueeze(-1) * weights.inputs.unsqueeze(-2)
    parts = []
    length = rotated.terms + _FIRST_LENGTH // 2
    for _, written_out in rotated.dense_parts():
        found = shortest_sum(written_out * weighted, length, longest, tolerance=tolerance)
        if found is None:
            return None
        outputs, inputs = found
        length = max(length, outputs.shape[2])
        parts.append(FactoredGradient(inputs, outputs))
    return weights.undone(FactoredGradient.joined(parts))


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

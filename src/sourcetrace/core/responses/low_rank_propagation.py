"""Propagation as in `core.responses.propagation`, of queries that stay low-rank sums.

A query of a layer used at one position is one outer product, in every basis. A segment's filter
is a sum of R of them (`core.responses.low_rank_filters`), so the response has R terms, and so has
what goes on to the segment before, where a rotation costs R (D_out² + D_in²) and not D_out · D_in
(D_out + D_in) multiplications. Terms that add nothing to scores are dropped there.

Where the count of multiplications is against it, as for 1/(σ + λ) with a small λ, which needs
many terms, the rest is that of `core.responses.propagation`, exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sourcetrace.core.curvature.blocks import CurvatureBlock
from sourcetrace.core.gradients.factored import FactoredGradient
from sourcetrace.core.gradients.per_example import DenseGradient, LayerGradient
from sourcetrace.core.plan.filters import SegmentFilter
from sourcetrace.core.responses.leading_terms import leading_terms
from sourcetrace.core.responses.low_rank_filters import FilterSum, Weights, filtered_sums
from sourcetrace.core.responses.propagation import Vectors, propagate

_SHARE_OF_PROPAGATION = 0.3
"""Of the tolerance, for what a segment hands on: its error reaches all segments before."""


def propagate_low_rank(
    queries: FactoredGradient,
    filters: Sequence[SegmentFilter],
    blocks: Sequence[CurvatureBlock | None],
    examples: Sequence[int],
    *,
    tolerance: float,
) -> list[Vectors]:
    """Return one layer's segment responses F_r(H̄_ℓ) v_ℓ / N_stage, first segment first.

    Args:
        queries: ∇f of the layer, Q rows.
        filters: F_r and F_S of every segment, in the order of training.
        blocks: The layer's curvature in every segment.
        examples: N_stage of every segment.
        tolerance: Relative error of the scores that is aimed at.
    """
    responses: list[Vectors] = []
    for index in reversed(range(len(filters))):
        step = _low_rank_step(
            queries, filters[index], blocks[index], tolerance=tolerance, first=index == 0
        )
        if step is None:
            upto = slice(index + 1)
            rest = propagate(queries, filters[upto], blocks[upto], examples[upto])
            return [*rest, *responses[::-1]]
        answer, queries = step
        responses.append(answer.scaled(1 / examples[index]))
    return responses[::-1]


def _low_rank_step(
    queries: FactoredGradient,
    segment_filter: SegmentFilter,
    block: CurvatureBlock | None,
    *,
    tolerance: float,
    first: bool,
) -> tuple[FactoredGradient, FactoredGradient] | None:
    """Return F_r(H̄) v and F_S(H̄) v as low-rank sums, or None if they would be too long."""
    if block is None:  # both are constants
        one = torch.ones((), dtype=queries.inputs.dtype, device=queries.inputs.device)
        response, onward = segment_filter.response(one), segment_filter.propagation(one)
        return queries.scaled(response), queries.scaled(onward)
    if block.preconditioner is not None:  # P̄^½ ∘ v is no low-rank sum
        return None
    basis, back = block.basis, block.basis.inverse()
    rotated = queries.rotated(basis.inputs, basis.outputs)
    eigenvalues = block.decayed(segment_filter.coupled_decay)
    response = segment_filter.response(eigenvalues)
    # Λ is E[g²] of training gradients in this basis, labels drawn from the model.
    answer = _filtered(response, rotated, block.eigenvalues, block, tolerance=tolerance)
    if answer is None:
        return None
    answer = answer.rotated(back.inputs, back.outputs)
    if first:  # nothing comes before
        return answer, queries
    # What is handed on meets such gradients behind another response; this one stands for it.
    left = _filtered(
        segment_filter.propagation(eigenvalues),
        rotated,
        response.square() * block.eigenvalues,
        block,
        tolerance=_SHARE_OF_PROPAGATION * tolerance,
    )
    return None if left is None else (answer, left.rotated(back.inputs, back.outputs))


def _filtered(
    values: Tensor,
    rotated: FactoredGradient,
    met: Tensor,
    block: CurvatureBlock,
    *,
    tolerance: float,
) -> FactoredGradient | None:
    """Return F ∘ V; `met` is E[x²] of what it meets, [groups, D_out, D_in]."""
    longest = most_terms(block)
    sums = FilterSum.of(values, Weights.of(rotated, met), tolerance=tolerance, longest=longest)
    # A filter that is no low-rank sum leaves none of a query's either; trying would cost much.
    if sums is None or rotated.terms == 1:
        return None if sums is None else sums.apply(rotated)
    return filtered_sums(values, rotated, Weights.of(met), tolerance=tolerance, longest=longest)


@dataclass(frozen=True)
class Propagation:
    """F_S of one layer's segment, for many rows, each by itself.

    Attributes:
        values: F_S at every eigenvalue, [groups, D_out, D_in].
        sums: The same as a low-rank sum; None where that is not cheaper.
    """

    values: Tensor
    sums: FilterSum | None

    @classmethod
    def of(
        cls,
        segment_filter: SegmentFilter,
        block: CurvatureBlock,
        *,
        tolerance: float,
        fewest: int = 1,
    ) -> "Propagation":
        """Prepare a segment's F_S.

        Args:
            segment_filter: Of the segment.
            block: The layer's curvature.
            tolerance: Of the relative error of what it leaves.
            fewest: Terms that a sum has, even where fewer would do.
        """
        eigenvalues = block.decayed(segment_filter.coupled_decay)
        values = segment_filter.propagation(eigenvalues)
        sums = FilterSum.of(
            values, None, tolerance=tolerance, longest=most_terms(block), fewest=fewest
        )
        # The same where rows are written out: longer examples beside one may make them so.
        return cls(values if sums is None else sums.written_out(), sums)

    def apply(self, rotated: LayerGradient, *, positions: int = 1) -> LayerGradient:
        """Return F_S ∘ V of gradients in the eigenbasis.

        Args:
            rotated: V.
            positions: Outer products that V started with, before any segment's F_S.
        """
        if isinstance(rotated, FactoredGradient) and self.sums is not None:
            left = self.sums.apply(rotated)
            # A filter adds about its own length to the terms of an outer product that count.
            terms = rotated.terms + positions * len(self.sums)
            if left.terms > terms:
                outputs, inputs = leading_terms(left, terms, improved=False)
                left = FactoredGradient(inputs, outputs)
            return left
        return DenseGradient(self.values * rotated.dense())


def most_terms(block: CurvatureBlock) -> int:
    """Return how long a filter may be before products with written-out responses are cheaper."""
    outputs, inputs = block.eigenvalues.shape[-2:]
    return outputs * inputs // (2 * (outputs + inputs))

"""The walk of `core.scoring` with queries that stay short sums of outer products.

A query of a layer used at one position is one outer product, in every basis. A segment's filter
is a sum of R of them (`core.filter_sums`), so the response has R terms, and so has what goes on
to the segment before, where a rotation costs R (D_out² + D_in²) and not
D_out · D_in (D_out + D_in) multiplications. Terms that add nothing to scores are dropped there.

Where the count of multiplications is against it, as for 1/(σ + λ) with a small λ, which needs
many terms, the rest of the walk is that of `core.scoring`, exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from sourcetrace.core.curvature import CurvatureBlock
from sourcetrace.core.factored_gradient import FactoredGradient
from sourcetrace.core.filter_sums import FilterSum, Weights, filter_sum, shortened
from sourcetrace.core.filters import SegmentFilter
from sourcetrace.core.gradients import DenseGradient, LayerGradient
from sourcetrace.core.scoring import walk

Vectors = Tensor | FactoredGradient
"""One layer's queries or responses: [Q, groups, D_out, D_in], or as short sums."""

_SHARE_OF_RESPONSE = 0.7
_SHARE_OF_PROPAGATION = 0.3
"""Of the tolerance, for the errors of what a segment answers and of what it hands on."""


@dataclass(frozen=True)
class StepSums:
    """The filters of one layer in one segment as short sums.

    Attributes:
        response: F_r.
        propagation: F_S; None in the first segment, which hands nothing on.
        weights: Of the coordinates of what is answered, where it meets training gradients.
        onward: Of the coordinates of what is handed on.
    """

    response: FilterSum
    propagation: FilterSum | None
    weights: Weights
    onward: Weights


def walk_short(
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
        block = blocks[index]
        step = None
        if block is not None and block.preconditioner is None:
            rotated = queries.rotated(block.basis.inputs, block.basis.outputs)
            step = step_sums(rotated, filters[index], block, tolerance=tolerance, onward=index > 0)
        if block is None or step is None:
            upto = slice(index + 1)
            rest = walk(queries.dense(), filters[upto], blocks[upto], examples[upto])
            return [*rest, *responses[::-1]]
        back = block.basis.inverse()
        answer = step.response.apply(rotated)
        if queries.terms > 1:
            answer = shortened(answer, step.weights, tolerance=_SHARE_OF_PROPAGATION * tolerance)
        answer = answer.rotated(back.inputs, back.outputs)
        responses.append(FactoredGradient(answer.inputs / examples[index], answer.output_gradients))
        if step.propagation is not None:
            left = step.propagation.apply(rotated)
            left = shortened(left, step.onward, tolerance=_SHARE_OF_PROPAGATION * tolerance)
            queries = left.rotated(back.inputs, back.outputs)
    return responses[::-1]


def step_sums(
    queries: Vectors,
    segment_filter: SegmentFilter,
    block: CurvatureBlock,
    *,
    tolerance: float,
    onward: bool,
) -> StepSums | None:
    """Return a segment's filters as short sums; None where they would be too long.

    Args:
        queries: v in the eigenbasis, or E[v²].
        segment_filter: F_r and F_S.
        block: The layer's curvature.
        tolerance: Relative error of the scores that is aimed at.
        onward: Whether a segment comes before.
    """
    eigenvalues = block.decayed(segment_filter.coupled_decay)
    longest = most_terms(block)
    if longest < 1:
        return None
    # Λ is E[g²] of training gradients in this basis, labels drawn from the model.
    weights = Weights.of(queries, block.eigenvalues)
    values = segment_filter.response(eigenvalues)
    response = filter_sum(
        values, weights, tolerance=_SHARE_OF_RESPONSE * tolerance, longest=longest
    )
    if response is None:
        return None
    # What is handed on meets such gradients behind another response; this one stands for it.
    met = values.square() * block.eigenvalues
    propagation = None
    if onward:
        propagation = filter_sum(
            segment_filter.propagation(eigenvalues),
            Weights.of(queries, met),
            tolerance=_SHARE_OF_PROPAGATION * tolerance,
            longest=longest,
        )
        if propagation is None:
            return None
    return StepSums(response, propagation, Weights.of(block.eigenvalues), Weights.of(met))


def propagated(
    rotated: LayerGradient,
    segment_filter: SegmentFilter,
    block: CurvatureBlock,
    *,
    tolerance: float,
) -> LayerGradient:
    """Return F_S(H̄) v of gradients given in the eigenbasis, in the parameters' coordinates.

    Short sums stay short where that is cheaper. Every row's numbers depend on that row alone.

    Args:
        rotated: v in the eigenbasis.
        segment_filter: F_r and F_S.
        block: The layer's curvature, without a preconditioner.
        tolerance: Relative error that is aimed at.
    """
    back = block.basis.inverse()
    if isinstance(rotated, FactoredGradient):
        # E[v²] by Λ: with that of these rows, one row's terms would depend on another.
        energy = block.eigenvalues
        sums = step_sums(energy, segment_filter, block, tolerance=tolerance, onward=True)
        if sums is not None and sums.propagation is not None:
            left = shortened(sums.propagation.apply(rotated), sums.onward, tolerance=tolerance)
            return left.rotated(back.inputs, back.outputs)
    values = segment_filter.propagation(block.decayed(segment_filter.coupled_decay))
    return DenseGradient(values * rotated.dense()).rotated(back.inputs, back.outputs)


def most_terms(block: CurvatureBlock) -> int:
    """Return how long a filter may be before products with written-out responses are cheaper."""
    outputs, inputs = block.eigenvalues.shape[-2:]
    return outputs * inputs // (2 * (outputs + inputs))

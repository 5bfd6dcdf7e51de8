"""How much larger the curvature is along the queries' responses than EK-FAC says.

EK-FAC takes layers one by one, and of each layer's matrix the diagonal in a Kronecker basis.
Both leave out what couples directions, and of a positive matrix the largest eigenvalues are
then too small: gradients of different layers rise and fall together. Responses
x = F_r(H̄) v of the queries lie in just those directions, and come out too long. One
factor c a segment repairs the most of it: that for which

    Σ_q x_qᵀ (c H̄) x_q = Σ_q x_qᵀ F x_q ,    x_q = F_r(c H̄) v_q ,

with F the Fisher matrix of all layers together, E[g gᵀ] over gradients with sampled labels.
F needs no matrix: xᵀFx = E⟨x, g⟩². With H̄ = F the factor is 1. c H̄ takes the place of H̄ in
both filters of `scaled_source`.

*Derived*; docs/results.md has what it does to retrained outcomes.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sourcetrace.core.attribution import stack_queries
from sourcetrace.core.curvature import SegmentCurvature
from sourcetrace.core.examples import Block, Examples
from sourcetrace.core.gradient_source import EvaluationPoint, GradientSource
from sourcetrace.core.gradients import Gradients, concatenate
from sourcetrace.core.plan import AttributionPlan, Member, PlannedSegment
from sourcetrace.core.scoring import SegmentStep

QUERIES = 32
"""Queries whose responses are measured; c is one number, and they agree on it."""

EXAMPLES = 512
"""Training examples of a segment's stage that stand for its Fisher matrix, memory allowing."""

_SAMPLE_BYTES = 2**30
"""Bound on the sampled gradients of a segment, were all of them dense."""

_FEWEST_EXAMPLES = 32

_ITERATIONS = 20
_TOLERANCE = 0.01
"""Relative change of c at which the iteration stops."""


def scale_curvature(
    source: GradientSource,
    plan: AttributionPlan,
    fitted: Sequence[SegmentCurvature],
    queries: Examples,
) -> list[tuple[float, SegmentCurvature]]:
    """Return c and c H̄ of every segment.

    Args:
        source: Gives the gradients with sampled labels, and the queries'.
        plan: The members and their segments.
        fitted: H̄ of each segment.
        queries: The queries, of which `QUERIES` are used.
    """
    found: list[tuple[float, SegmentCurvature]] = []
    for member, curvatures in plan.by_member(fitted):
        stacked = stack_queries(source, member, queries)
        # Without the last row, the mean loss, which is not a measurement.
        count = len(queries)
        chosen = torch.linspace(0, count - 1, min(QUERIES, count)).round().long()
        walking = {name: gradients[chosen] for name, gradients in stacked.items()}
        found += reversed(list(_walk_back(source, member, curvatures, walking)))
    return found


def _walk_back(
    source: GradientSource,
    member: Member,
    fitted: Sequence[SegmentCurvature],
    queries: Mapping[str, Tensor],
) -> Iterator[tuple[float, SegmentCurvature]]:
    """Yield c and c H̄ of a member's segments, the last one first, as the queries walk."""
    for planned, curvature in zip(reversed(member.segments), reversed(fitted), strict=True):
        sampled = [_sampled_gradients(source, planned, point) for point in planned.points]
        scale = curvature_scale(planned, curvature, queries, sampled)
        scaled = {name: block.scaled(scale) for name, block in curvature.items()}
        yield scale, scaled
        steps = _steps(planned, scaled, queries)
        queries = {name: step.propagated() for name, step in steps.items()}


def curvature_scale(
    planned: PlannedSegment,
    curvature: SegmentCurvature,
    queries: Mapping[str, Tensor],
    sampled: Sequence[Gradients],
) -> float:
    """Return c of one segment.

    Args:
        planned: The segment.
        curvature: H̄ by layer.
        queries: v by layer, [Q, groups, D_out, D_in].
        sampled: Gradients with sampled labels at each point of the segment.
    """
    scale = 1.0
    for _ in range(_ITERATIONS):
        scaled = {name: block.scaled(scale) for name, block in curvature.items()}
        steps = _steps(planned, scaled, queries)
        # Of c H̄, so that at the answer the two are equal.
        expected = sum(float(step.response_curvature().double().sum()) for step in steps.values())
        responses = {name: step.response() for name, step in steps.items()}
        measured = _mean(_fisher_products(responses, gradients) for gradients in sampled)
        if not (expected > 0 and measured > 0):  # no query reaches a direction with curvature
            return scale
        ratio = measured / expected
        scale *= ratio
        if abs(ratio - 1) <= _TOLERANCE:
            break
    return scale


def _steps(
    planned: PlannedSegment, curvature: SegmentCurvature, queries: Mapping[str, Tensor]
) -> dict[str, SegmentStep]:
    return {
        name: SegmentStep(gradients, planned.filter_of(name), curvature[name])
        for name, gradients in queries.items()
    }


def _fisher_products(responses: Mapping[str, Tensor], gradients: Gradients) -> float:
    """Return Σ_q x_qᵀFx_q, the layers' products added before they are squared."""
    products = torch.stack([gradients[name].products(x) for name, x in responses.items()])
    return float(products.sum(0).double().square().mean(1).sum())


def _sampled_gradients(
    source: GradientSource, planned: PlannedSegment, point: EvaluationPoint
) -> Gradients:
    """Return gradients with sampled labels of examples spread evenly over the stage."""
    count = len(planned.examples)
    each = sum(layer.size for layer in source.coverage.layers) * source.dtype.itemsize
    affordable = max(_FEWEST_EXAMPLES, _SAMPLE_BYTES // (each * len(planned.points)))
    spread = torch.linspace(0, count - 1, min(EXAMPLES, affordable, count)).round().long()
    chosen = planned.examples[spread]
    part = replace(point, examples=chosen, curvature_examples=chosen)
    blocks: list[Block] = [block for block in source.blocks() if len(part.rows(block))]
    return concatenate([source.extract(part, block, keep=False).sampled for block in blocks])


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)

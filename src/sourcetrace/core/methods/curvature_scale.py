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

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sourcetrace.core.curvature.blocks import CurvatureBlock, SegmentCurvature
from sourcetrace.core.engine.gradient_engine import GradientEngine
from sourcetrace.core.engine.samples import sample_gradients, spread
from sourcetrace.core.gradients.factored import FactoredGradient
from sourcetrace.core.gradients.per_example import DenseGradient, Gradients, LayerGradient
from sourcetrace.core.model.examples import Examples
from sourcetrace.core.plan.filters import SegmentFilter
from sourcetrace.core.plan.plan import AttributionPlan, PlannedSegment
from sourcetrace.core.responses.low_rank_filters import FilterSum, Weights
from sourcetrace.core.responses.low_rank_propagation import Propagation, most_terms
from sourcetrace.core.responses.propagation import SegmentStep
from sourcetrace.core.responses.queries import QueryGradients

QUERIES = 32
"""Queries whose responses are measured; c is one number, and they agree on it."""

EXAMPLES = 512
"""Training examples of a segment's stage that stand for its Fisher matrix, memory allowing."""

_SAMPLE_BYTES = 2**30
"""Bound on the sampled gradients of a segment, were all of them dense."""

_ITERATIONS = 20
_TOLERANCE = 0.01
"""Relative change of c at which the iteration stops; low-rank sums are held to it too."""


def scale_curvature(
    engine: GradientEngine,
    plan: AttributionPlan,
    fitted: Sequence[SegmentCurvature],
    queries: Examples,
) -> list[tuple[float, SegmentCurvature]]:
    """Return c and c H̄ of every segment.

    Args:
        engine: Gives the gradients with sampled labels, and the queries'.
        plan: The members and their segments.
        fitted: H̄ of each segment.
        queries: The queries, of which `QUERIES` are used.
    """
    chosen = queries.subset(spread(torch.arange(len(queries)), QUERIES).tolist())
    found: list[tuple[float, SegmentCurvature]] = []
    for member, curvatures in plan.by_member(fitted):
        measured: Gradients = QueryGradients.of(engine, member, chosen).measured
        last_first: list[tuple[float, SegmentCurvature]] = []
        for planned, curvature in zip(reversed(member.segments), reversed(curvatures), strict=True):
            points = planned.points
            count = engine.affordable(most=EXAMPLES, limit=_SAMPLE_BYTES, points=len(points))
            examples = spread(planned.examples, count)
            scale = curvature_scale(
                planned,
                curvature,
                measured,
                [sample_gradients(engine, point, examples, sampled=True) for point in points],
            )
            scaled = {name: block.scaled(scale) for name, block in curvature.items()}
            last_first.append((scale, scaled))
            measured = {
                name: _handed_on(one, planned.filter_of(name), scaled[name])
                for name, one in measured.items()
            }
        found += reversed(last_first)
    return found


def _handed_on(
    queries: LayerGradient, segment_filter: SegmentFilter, block: CurvatureBlock
) -> LayerGradient:
    if block.preconditioner is not None:
        return DenseGradient(SegmentStep(queries.dense(), segment_filter, block).propagated())
    rotated = queries.rotated(block.basis.inputs, block.basis.outputs)
    left = Propagation.of(segment_filter, block, tolerance=_TOLERANCE).apply(rotated)
    back = block.basis.inverse()
    return left.rotated(back.inputs, back.outputs)


def curvature_scale(
    planned: PlannedSegment,
    curvature: SegmentCurvature,
    queries: Gradients,
    sampled: Sequence[Gradients],
) -> float:
    """Return c of one segment.

    Args:
        planned: The segment.
        curvature: H̄ by layer.
        queries: v by layer.
        sampled: Gradients with sampled labels at each point of the segment.
    """
    layers = [
        _layer_terms(
            planned.filter_of(name), curvature[name], one, [part[name] for part in sampled]
        )
        for name, one in queries.items()
    ]

    def excess(logarithm: float) -> float | None:
        """Return log of xᵀFx over xᵀ(c H̄)x at c; None where no query meets any curvature."""
        parts = [layer(math.exp(logarithm)) for layer in layers]
        # Of c H̄, so that at the answer the two are equal.
        expected = sum(one for one, _ in parts)
        # The layers' products are added before they are squared.
        by_point = torch.stack([products for _, products in parts]).sum(0).double()
        measured = float(by_point.square().mean((0, 2)).sum())
        return math.log(measured / expected) if expected > 0 and measured > 0 else None

    return math.exp(_root(excess))


def _root(excess: Callable[[float], float | None]) -> float:
    """Return where a falling function is 0: a step of its own size first, then secants."""
    place, before = 0.0, None
    for _ in range(_ITERATIONS):
        value = excess(place)
        if value is None or abs(value) <= _TOLERANCE:
            break
        slope = -1.0
        if before is not None and before[0] != place:
            # Between the plain step, which is safe, and one four times as long.
            slope = min(-0.25, max(-1.0, (value - before[1]) / (place - before[0])))
        before = (place, value)
        place -= value / slope
    return place


_LayerTerms = Callable[[float], tuple[float, Tensor]]
"""Of c: Σ_q x_qᵀ(c H̄)x_q, and ⟨x_q, g⟩ at every point, [points, Q, N]."""


def _layer_terms(
    segment_filter: SegmentFilter,
    block: CurvatureBlock,
    queries: LayerGradient,
    sampled: Sequence[LayerGradient],
) -> _LayerTerms:
    if block.preconditioner is not None:  # it stands between the parameters and the eigenbasis
        dense = queries.dense()

        def preconditioned(scale: float) -> tuple[float, Tensor]:
            step = SegmentStep(dense, segment_filter, block.scaled(scale))
            response = step.response()
            products = torch.stack([one.products(response) for one in sampled])
            return float(step.response_curvature().double().sum()), products

        return preconditioned
    basis = block.basis
    # All in the eigenbasis: c changes the filter alone.
    rotated = queries.rotated(basis.inputs, basis.outputs)
    met = [one.rotated(basis.inputs, basis.outputs) for one in sampled]
    written_out = rotated.dense()
    energy = written_out.square().sum(0)
    weights = Weights.of(energy, block.eigenvalues)

    def terms(scale: float) -> tuple[float, Tensor]:
        scaled = block.scaled(scale)
        values = segment_filter.response(scaled.decayed(segment_filter.coupled_decay))
        expected = float((scaled.eigenvalues * values.square() * energy).double().sum())
        responses: Tensor | FactoredGradient | None = None
        if isinstance(rotated, FactoredGradient):
            sums = FilterSum.of(values, weights, tolerance=_TOLERANCE, longest=most_terms(block))
            responses = None if sums is None else sums.apply(rotated)
        if responses is None:
            responses = values * written_out
        return expected, torch.stack([one.products(responses) for one in met])

    return terms

"""Responses as low-rank sums where that is cheaper, checked on scores of the run itself.

A sample of queries and training examples is scored once with the responses as they are to be
used and once by the exact filters. The relative error of the one against the other, over all
layers and segments, must be within the tolerance; the sums are made again, longer, until it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce

import torch
from torch import Tensor

from sourcetrace.core.curvature.blocks import SegmentCurvature
from sourcetrace.core.engine.gradient_engine import GradientEngine
from sourcetrace.core.engine.samples import sample_gradients, spread
from sourcetrace.core.gradients.factored import FactoredGradient
from sourcetrace.core.gradients.per_example import Gradients, LayerGradient
from sourcetrace.core.model.precision import Precision, products_in
from sourcetrace.core.plan.plan import EnsembleMember, PlannedSegment
from sourcetrace.core.responses.low_rank_propagation import propagate_low_rank
from sourcetrace.core.responses.propagation import Response, Vectors, propagate
from sourcetrace.core.responses.queries import QueryGradients, query_responses

_QUERIES = 4
_EXAMPLES = 64
"""The sample of pairs."""

_SAMPLE_BYTES = 2**31
"""Bound on the gradients of the sample, were all of them dense."""

_FIRST_AIM = 1.2
"""What is left out of a filter overstates the error of scores by more than that, as a rule."""

_TIGHTER = 0.8
"""Of the aim by which the measured error would have been the tolerance."""

_ATTEMPTS = 4


@dataclass(frozen=True)
class _LayerChoice:
    """How one layer's scores of one segment are computed.

    Attributes:
        segment: Its number.
        layer: The layer.
        terms: Outer products of a response; 0 where it is written out.
        multiplications: Of a query and an example at all checkpoints of the segment, at most.
        dense_multiplications: The same, were the response written out.
        reason: Why.
    """

    segment: int
    layer: str
    terms: int
    multiplications: int
    dense_multiplications: int
    reason: str


@dataclass(frozen=True)
class ScoreCheck:
    """How far the scores are from those of the exact filters.

    Attributes:
        error: Relative error over a sample of pairs, ‖s − s_exact‖ / ‖s_exact‖.
        tolerance: What it was to be within.
        choices: A layer and segment each.
        precision: Of the products.
        refused: The error that a lower precision would have had, where it was too large.
    """

    error: float
    tolerance: float
    choices: tuple[_LayerChoice, ...]
    precision: Precision = "float32"
    refused: float | None = None


def low_rank_responses(
    engine: GradientEngine,
    queries: QueryGradients,
    member: EnsembleMember,
    curvatures: Sequence[SegmentCurvature | None],
    *,
    tolerance: float,
    precision: Precision = "float32",
) -> tuple[list[dict[str, Response]], ScoreCheck]:
    """Return every segment's responses by layer, the mean loss's in the last row.

    Args:
        engine: Gives the sample's training gradients.
        queries: The queries.
        member: Segments and filters.
        curvatures: One a segment; None where the filter needs none.
        tolerance: Of the relative error of the scores; 0 takes the exact filters everywhere.
        precision: Of the products with training gradients, where the tolerance allows it.
    """
    sample = _Sample(engine, queries, member, curvatures)
    rounded = precision != "float32" and tolerance > 0
    refused: float | None = None
    aim = _FIRST_AIM * tolerance
    for attempt in range(_ATTEMPTS + 1):
        exactly = not tolerance or attempt == _ATTEMPTS
        responses = (
            _exact_responses(queries, member, curvatures)
            if exactly
            else _responses(queries, member, curvatures, tolerance=aim)
        )
        choices = _choices(responses, queries, member)
        exact = not any(one.terms for one in choices)
        error = 0.0 if exact else sample.error(responses)
        if error <= tolerance or exactly:
            break
        aim *= _TIGHTER * tolerance / error
    responses = _written_out(responses, queries, member)
    if rounded:
        lower = responses if precision == "tf32" else _rounded(responses)
        refused = sample.error(lower, precision)
        if refused <= tolerance:
            return lower, ScoreCheck(refused, tolerance, choices, precision)
    return responses, ScoreCheck(error, tolerance, choices, refused=refused)


def _exact_responses(
    queries: QueryGradients, member: EnsembleMember, curvatures: Sequence[SegmentCurvature | None]
) -> list[dict[str, Response]]:
    responses: list[dict[str, Response]] = [{} for _ in member.segments]
    for name, gradient in queries.measured.items():
        steps = member.layer_steps(name, curvatures)
        found = propagate(gradient, *steps, behind=queries.mean_loss[name])
        for segment, response in zip(responses, found, strict=True):
            segment[name] = response
    return responses


def _written_out(
    responses: Sequence[Mapping[str, Response]], queries: QueryGradients, member: EnsembleMember
) -> list[dict[str, Response]]:
    """Write out, once, what the products with every block would write out again."""
    written: list[dict[str, Response]] = []
    for segment, planned in zip(responses, member.segments, strict=True):
        written.append(dict(segment))
        for name, response in segment.items():
            if not isinstance(response, tuple):
                continue
            measured, mean_loss = response
            if isinstance(measured, FactoredGradient):
                short = _multiplications(measured, queries.measured[name], planned)
                if short >= measured.dense_size:
                    written[-1][name] = torch.cat([measured.dense(), mean_loss])
    return written


def _multiplications(
    response: FactoredGradient, query: LayerGradient, planned: PlannedSegment
) -> int:
    """Return those of a response and an example's mean gradient, both as low-rank sums.

    The mean has as many terms as the checkpoints' gradients together; no more than one's where
    their inputs are the same. A checkpoint's have as many as the queries'.
    """
    positions = query.terms if isinstance(query, FactoredGradient) else 1
    return response.size * positions * len(planned.points)


def _rounded(responses: Sequence[Mapping[str, Response]]) -> list[dict[str, Response]]:
    """Return the measurements' rows in bfloat16; the mean loss's stays as it is."""

    def lower(response: Response) -> Response:
        if isinstance(response, tuple):
            return (response[0].to(torch.bfloat16), response[1])
        return (response[:-1].to(torch.bfloat16), response[-1:])

    return [{name: lower(one) for name, one in segment.items()} for segment in responses]


def _responses(
    queries: QueryGradients,
    member: EnsembleMember,
    curvatures: Sequence[SegmentCurvature | None],
    *,
    tolerance: float,
) -> list[dict[str, Response]]:
    responses: list[dict[str, Response]] = [{} for _ in member.segments]
    for name, gradient in queries.measured.items():
        steps = member.layer_steps(name, curvatures)
        total = queries.mean_loss[name]
        found: Sequence[Response]
        if isinstance(gradient, FactoredGradient):
            measured = propagate_low_rank(gradient, *steps, tolerance=tolerance)
            mean_loss = propagate(total, *steps)
            found = [
                torch.cat([one, other]) if isinstance(one, Tensor) else (one, other)
                for one, other in zip(measured, mean_loss, strict=True)
            ]
        else:
            found = propagate(gradient, *steps, behind=total)
        for segment, response in zip(responses, found, strict=True):
            segment[name] = response
    return responses


class _Sample:
    """Some queries' scores by the exact filters, computed when they are first asked for.

    Args:
        engine: Gives the training gradients, at the last checkpoint of every segment.
        queries: The queries.
        member: Segments and filters.
        curvatures: One a segment.
    """

    def __init__(
        self,
        engine: GradientEngine,
        queries: QueryGradients,
        member: EnsembleMember,
        curvatures: Sequence[SegmentCurvature | None],
    ) -> None:
        self._source, self._queries = engine, queries
        self._member, self._curvatures = member, curvatures
        count = len(next(iter(queries.measured.values())))
        self._rows = spread(torch.arange(count), _QUERIES)

    @cached_property
    def _gradients(self) -> list[Gradients]:
        segments = self._member.segments
        count = self._source.affordable(most=_EXAMPLES, limit=_SAMPLE_BYTES, points=len(segments))
        return [
            sample_gradients(self._source, one.points[-1], spread(one.examples, count))
            for one in segments
        ]

    @cached_property
    def _exact(self) -> list[Tensor]:
        chosen = {
            name: gradient.rows(self._rows).dense()
            for name, gradient in self._queries.measured.items()
        }
        return _scores(query_responses(chosen, self._member, self._curvatures), self._gradients)

    def error(
        self, responses: Sequence[Mapping[str, Response]], precision: Precision = "float32"
    ) -> float:
        """Return ‖s − s_exact‖ / ‖s_exact‖ over all segments, s multiplied in a precision."""
        chosen = [
            {name: _rows(response, self._rows) for name, response in segment.items()}
            for segment in responses
        ]
        with products_in(precision, self._source.device):
            found = _scores(chosen, self._gradients)
        off = sum(
            float((one - other).double().square().sum())
            for one, other in zip(found, self._exact, strict=True)
        )
        whole = sum(float(one.double().square().sum()) for one in self._exact)
        return (off / whole) ** 0.5 if whole else 0.0


def _scores(
    responses: Sequence[Mapping[str, Vectors]], gradients: Sequence[Gradients]
) -> list[Tensor]:
    return [
        reduce(torch.add, (own[name].products(one) for name, one in segment.items()))
        for segment, own in zip(responses, gradients, strict=True)
    ]


def _rows(response: Response, rows: Tensor) -> Vectors:
    """Return rows of the measurements, which come first."""
    measured = response[0] if isinstance(response, tuple) else response
    return measured[rows] if isinstance(measured, Tensor) else measured.rows(rows)


def _choices(
    responses: Sequence[Mapping[str, Response]], queries: QueryGradients, member: EnsembleMember
) -> tuple[_LayerChoice, ...]:
    found = []
    for segment, planned in zip(responses, member.segments, strict=True):
        for name, response in segment.items():
            first = response[0] if isinstance(response, tuple) else response
            if isinstance(first, Tensor):
                terms, dense = 0, first[0].numel()
                short, reason = dense, "a low-rank sum would need as many multiplications, or more"
            else:
                terms, dense = first.terms, first.dense_size
                short = min(dense, _multiplications(first, queries.measured[name], planned))
                reason = (
                    f"{short:,} multiplications a pair instead of {dense:,}"
                    if short < dense
                    else "a low-rank sum is cheaper to rotate; products write it out"
                )
            number = planned.segment.number
            found.append(_LayerChoice(number, name, terms, short, dense, reason))
    return tuple(found)

"""One layer's responses, as low-rank sums where that is cheaper.

Some queries are propagated by the exact filters too, for `core.responses.score_check`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sourcetrace.core.curvature.blocks import SegmentCurvature
from sourcetrace.core.gradients.factored import FactoredGradient
from sourcetrace.core.gradients.per_example import LayerGradient
from sourcetrace.core.model.precision import Precision
from sourcetrace.core.plan.plan import EnsembleMember, PlannedSegment
from sourcetrace.core.responses.low_rank_propagation import propagate_low_rank
from sourcetrace.core.responses.propagation import Response, propagate


@dataclass(frozen=True)
class LayerChoice:
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
class LayerResponse:
    """What a layer answers to the queries in one segment.

    Attributes:
        response: The mean loss's in the last row.
        exact: Of some queries, by the exact filters, where `response` has sums in their place.
    """

    response: Response
    exact: Tensor | None = None

    def multiplied_in(self, precision: Precision) -> Response:
        """Return the response as products in a precision take it; the mean loss's stays."""
        if precision != "bfloat16":
            return self.response
        if isinstance(self.response, tuple):
            return self.response[0].to(torch.bfloat16), self.response[1]
        return self.response[:-1].to(torch.bfloat16), self.response[-1:]

    def tensors(self) -> dict[str, Tensor]:
        """Return what `of_tensors` rebuilds it of."""
        exact = {} if self.exact is None else {"exact": self.exact}
        if isinstance(self.response, Tensor):
            return {"rows": self.response} | exact
        measured, mean_loss = self.response
        if isinstance(measured, Tensor):
            return {"rows": torch.cat([measured, mean_loss])} | exact
        return measured.tensors() | {"mean_loss": mean_loss} | exact

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor]) -> "LayerResponse":
        """Rebuild the response."""
        exact = tensors.get("exact")
        if "rows" in tensors:
            return cls(tensors["rows"], exact)
        measured = FactoredGradient(tensors["inputs"], tensors["output_gradients"])
        return cls((measured, tensors["mean_loss"]), exact)

    def to(self, device: torch.device) -> "LayerResponse":
        """Return the response on another device."""
        return self.of_tensors({name: one.to(device) for name, one in self.tensors().items()})


def low_rank_responses(
    name: str,
    gradient: LayerGradient,
    mean_loss: Tensor,
    member: EnsembleMember,
    curvatures: Sequence[SegmentCurvature | None],
    *,
    aim: float,
    checked: Tensor,
) -> tuple[list[LayerResponse], list[LayerChoice]]:
    """Return a layer's response of every segment, and how its scores are computed.

    Args:
        name: The layer.
        gradient: Of the queries' measurements.
        mean_loss: Of their mean loss.
        member: Segments and filters.
        curvatures: One a segment; None where the filter needs none.
        aim: Relative error of the scores by low-rank sums; 0 takes the exact filters.
        checked: Numbers of queries that are to have an exact response, too.
    """
    steps = member.layer_steps(name, curvatures)
    found: Sequence[Response]
    if aim and isinstance(gradient, FactoredGradient):
        measured = propagate_low_rank(gradient, *steps, tolerance=aim)
        found = [
            torch.cat([one, other]) if isinstance(one, Tensor) else (one, other)
            for one, other in zip(measured, propagate(mean_loss, *steps), strict=True)
        ]
    else:
        found = propagate(gradient, *steps, behind=mean_loss)
    choices = [
        _choice(name, one, gradient, planned)
        for one, planned in zip(found, member.segments, strict=True)
    ]
    exact: Sequence[Tensor | None] = [None] * len(found)
    if any(one.terms for one in choices):
        exact = propagate(gradient.rows(checked).dense(), *steps)
    written = map(_written_out, found, choices)
    return list(map(LayerResponse, written, exact)), choices


def _written_out(response: Response, choice: LayerChoice) -> Response:
    """Write out, once, what the products with every block would write out again."""
    if choice.terms and choice.multiplications == choice.dense_multiplications:
        measured, mean_loss = response
        if isinstance(measured, FactoredGradient):
            return torch.cat([measured.dense(), mean_loss])
    return response


def _choice(
    layer: str, response: Response, query: LayerGradient, planned: PlannedSegment
) -> LayerChoice:
    first = response[0] if isinstance(response, tuple) else response
    if isinstance(first, Tensor):
        terms, dense = 0, first[0].numel()
        short, reason = dense, "a low-rank sum would need as many multiplications, or more"
    else:
        terms, dense = first.terms, first.dense_size
        short = min(dense, _multiplications(first, query, planned))
        reason = (
            f"{short:,} multiplications a pair instead of {dense:,}"
            if short < dense
            else "a low-rank sum is cheaper to rotate; products write it out"
        )
    return LayerChoice(planned.segment.number, layer, terms, short, dense, reason)


def _multiplications(
    response: FactoredGradient, query: LayerGradient, planned: PlannedSegment
) -> int:
    """Return those of a response and an example's mean gradient, both as low-rank sums.

    The mean has as many terms as the checkpoints' gradients together; no more than one's where
    their inputs are the same. A checkpoint's have as many as the queries'.
    """
    positions = query.terms if isinstance(query, FactoredGradient) else 1
    return response.size * positions * len(planned.points)

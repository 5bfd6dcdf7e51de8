"""Self-influence: the score of a training example on its own training loss at the end.

Propagation as in `core.responses.propagation`, with as many queries as examples and each meeting
itself alone. In the eigenbasis a segment's share is Σ_jk F_jk v_jk g_jk, v the example's own
gradient at the end as the later segments leave it, g its gradient at the segment's checkpoints.
For outer products that is a bilinear form, and nothing of the size of all examples' responses is
ever formed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sourcetrace.core.curvature.blocks import CurvatureBlock, EigenBasis, SegmentCurvature
from sourcetrace.core.gradients.factored import FactoredGradient, each_pair
from sourcetrace.core.gradients.per_example import DenseGradient, LayerGradient, mean
from sourcetrace.core.machine.products import times_by_group
from sourcetrace.core.methods.score import BlockGradients
from sourcetrace.core.plan.filters import SegmentFilter
from sourcetrace.core.plan.plan import EnsembleMember
from sourcetrace.core.responses.low_rank_filters import FilterSum
from sourcetrace.core.responses.low_rank_propagation import Propagation, most_terms
from sourcetrace.core.responses.propagation import SegmentStep

_CHUNK_BYTES = 64 * 2**20
"""Bound on one dense gradient tensor."""

_TOLERANCE = 0.05
"""Of the low-rank sums that stand for what is handed on. All coordinates count alike: weighed
by Λ, those that labels drawn from the model hardly move would not, and a wrong label moves them."""

_RESPONSE_TOLERANCE = 0.01
"""Of the low-rank sums that stand for F_r where what was handed on meets it."""

_FEWEST_TERMS = 6
"""Of both sums: small layers are cheap, and a single term may be much of one of theirs."""


@dataclass(frozen=True)
class SelfInfluence:
    """What scores the examples of a member on themselves.

    Attributes:
        member: Segments and their points.
        steps: Layer -> its filters in every segment.
        like: Has the dtype and device.
    """

    member: EnsembleMember
    steps: Mapping[str, Sequence["_Step"]]
    like: Tensor

    @classmethod
    def of(
        cls,
        member: EnsembleMember,
        curvatures: Sequence[SegmentCurvature | None],
        layers: Sequence[str],
        *,
        like: Tensor,
    ) -> "SelfInfluence":
        """Prepare the filters once for all blocks.

        Args:
            member: Segments and their points.
            curvatures: One a segment; None where the filter needs none.
            layers: Names of the attributed layers.
            like: Has the dtype and device.
        """
        steps = {}
        for name in layers:
            filters, blocks, _ = member.layer_steps(name, curvatures)
            before: list[CurvatureBlock | None] = [None, *blocks[:-1]]
            last = len(filters) - 1
            steps[name] = [
                _Step.of(one, block, earlier, first=index == 0, last=index == last)
                for index, (one, block, earlier) in enumerate(
                    zip(filters, blocks, before, strict=True)
                )
            ]
        return cls(member, steps, like)

    def scores(self, gradients: BlockGradients) -> Tensor:
        """Return every segment's share of the self-influence of a block, [segments, n]."""
        segments, count = self.member.segments, gradients.count
        shares = self.like.new_zeros(len(segments), count)
        for name, steps in self.steps.items():
            meetings = [
                _Meeting(columns, mean([one[name] for one in at_points]) if at_points else None)
                for columns, at_points in zip(gradients.places, gradients.met, strict=True)
            ]
            own = gradients.final[name]
            for rows in torch.split(torch.arange(count), _rows_at_once(own, steps)):
                for index, columns, share in _propagated(own.rows(rows), steps, meetings, rows):
                    shares[index, columns] += share / segments[index].count
        return shares


@dataclass(frozen=True)
class _Step:
    """One layer's filters in one segment.

    Attributes:
        filter: F_r and F_S.
        block: The layer's curvature, if the filter needs one.
        response: F_r at every eigenvalue, or a constant; not used where P̄ is in the way.
        response_sum: The same as a low-rank sum, for what later segments handed on; None in the
            last one, where nothing was, and where it would take more multiplications.
        propagation: F_S in the eigenbasis; None in the first segment, where nothing is handed
            on, and where P̄ is in the way.
        onward: Takes what is handed on to the eigenbasis of the segment before, or to the
            parameters' coordinates where that one starts from them.
    """

    filter: SegmentFilter
    block: CurvatureBlock | None
    response: Tensor
    response_sum: FilterSum | None = None
    propagation: Propagation | None = None
    onward: EigenBasis | None = None

    @classmethod
    def of(
        cls,
        segment_filter: SegmentFilter,
        block: CurvatureBlock | None,
        before: CurvatureBlock | None,
        *,
        first: bool,
        last: bool,
    ) -> "_Step":
        if block is None:
            return cls(segment_filter, None, segment_filter.response(torch.ones(())))
        if block.preconditioner is not None:  # `SegmentStep` has the filters
            return cls(segment_filter, block, block.eigenvalues)
        response = segment_filter.response(block.decayed(segment_filter.coupled_decay))
        response_sum = None
        if not last:
            response_sum = FilterSum.of(
                response,
                None,
                tolerance=_RESPONSE_TOLERANCE,
                longest=most_terms(block),
                fewest=_FEWEST_TERMS,
            )
            if response_sum is not None:
                response = response_sum.written_out()
        if first:
            return cls(segment_filter, block, response, response_sum)
        rotates = before is not None and before.preconditioner is None
        onward = block.basis.into(before.basis) if rotates and before else block.basis.inverse()
        propagation = Propagation.of(
            segment_filter, block, tolerance=_TOLERANCE, fewest=_FEWEST_TERMS
        )
        return cls(segment_filter, block, response, response_sum, propagation, onward)

    @property
    def short(self) -> bool:
        """Whether low-rank sums go through it as such."""
        return self.block is None or self.block.preconditioner is None

    def paired(self, own: LayerGradient, met: LayerGradient) -> Tensor:
        """Return Σ_jk F_jk v_jk g_jk of every example, [n]; both in the eigenbasis."""
        values = self.response
        if not (isinstance(own, FactoredGradient) and isinstance(met, FactoredGradient)):
            return met.paired_products(values * own.dense())
        if not values.dim():
            return values * met.paired_products(own)
        _, rows, columns = own.shape
        each = rows * columns
        if self.response_sum is not None:
            each = len(self.response_sum) * (rows + columns)
        if own.terms * met.terms * each > (own.terms + met.terms) * rows * columns:
            return met.paired_products(values * own.dense())
        outputs = each_pair(own.output_gradients, met.output_gradients)
        inputs = each_pair(own.inputs, met.inputs)
        if self.response_sum is not None:
            by_output = times_by_group(outputs, self.response_sum.outputs.mT)
            return (by_output * times_by_group(inputs, self.response_sum.inputs.mT)).sum((1, 2, 3))
        return (times_by_group(outputs, values) * inputs).sum((1, 2, 3))


@dataclass(frozen=True)
class _Meeting:
    """Examples of a segment's stage: places in a block, and mean gradient over its points or None.

    There is no gradient where there is no such example.
    """

    columns: Tensor
    gradient: LayerGradient | None


def _rows_at_once(own: LayerGradient, steps: Sequence[_Step]) -> int:
    """Return how many examples are propagated together: what they hand on is bounded."""
    if isinstance(own, FactoredGradient) and own.terms == 1 and all(one.short for one in steps):
        terms, most = 0, 1
        for step in reversed(steps):
            if step.propagation is not None and step.propagation.sums is not None:
                # One filter behind all later ones, before its terms are made fewer.
                length = len(step.propagation.sums)
                most = max(most, max(1, terms) * length)
                terms += length
        each = most * own.size * own.inputs.element_size()
        return max(1, min(len(own), _CHUNK_BYTES // 4 // each))
    one = own.rows(torch.arange(1)).dense()
    return max(1, _CHUNK_BYTES // (one.numel() * one.element_size()))


def _propagated(
    own: LayerGradient, steps: Sequence[_Step], meetings: Sequence[_Meeting], rows: Tensor
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield segment, places in the block and N_stage times their shares, the last one first."""
    rotated: LayerGradient | None = None
    positions = own.terms if isinstance(own, FactoredGradient) else 1
    for index in reversed(range(len(steps))):
        step, meeting = steps[index], meetings[index]
        inside = (meeting.columns >= rows[0]) & (meeting.columns <= rows[-1])
        columns = meeting.columns[inside]
        met = None if meeting.gradient is None else meeting.gradient.rows(inside)
        mine = columns - rows[0]
        share: Tensor | None = None
        if step.block is None:
            if met is not None:
                share = step.paired(own.rows(mine), met)
        elif not step.short:
            stepped = SegmentStep(own.dense(), step.filter, step.block)
            if met is not None:
                share = met.paired_products(stepped.response()[mine])
            own = DenseGradient(stepped.propagated()) if index else own
        else:
            basis = step.block.basis
            if rotated is None:
                rotated = own.rotated(basis.inputs, basis.outputs)
            if met is not None:
                met = met.rotated(basis.inputs, basis.outputs)
                share = step.paired(rotated.rows(mine), met)
            if step.propagation is not None and step.onward is not None:
                left = step.propagation.apply(rotated, positions=positions)
                handed_on = left.rotated(step.onward.inputs, step.onward.outputs)
                before = steps[index - 1].block
                rotated = None
                if before is not None and before.preconditioner is None:
                    rotated = handed_on
                else:
                    own = handed_on
        if share is not None:
            yield index, columns, share

"""Self-influence: the score of a training example on its own training loss at the end.

The walk of `core.responses.propagation`, with as many queries as examples and each meeting itself
alone. In the eigenbasis a segment's share is Σ_jk F_jk v_jk g_jk, v the example's own gradient at
the end as the later segments leave it, g its gradient at the segment's checkpoints. For outer
products that is a bilinear form, and nothing of the size of all examples' responses is ever
formed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sourcetrace.core.curvature.blocks import CurvatureBlock, EigenBasis, SegmentCurvature
from sourcetrace.core.engine.gradient_engine import GradientEngine
from sourcetrace.core.gradients.factored import FactoredGradient
from sourcetrace.core.gradients.per_example import DenseGradient, LayerGradient
from sourcetrace.core.model.examples import Block
from sourcetrace.core.plan.filters import SegmentFilter
from sourcetrace.core.plan.plan import EnsembleMember
from sourcetrace.core.responses.low_rank_propagation import Propagation
from sourcetrace.core.responses.propagation import SegmentStep
from sourcetrace.core.responses.queries import layer_steps

_CHUNK_BYTES = 64 * 2**20
"""Bound on one dense gradient tensor."""

_TOLERANCE = 0.02
"""Of the short sums that stand for what is handed on; a ranking needs no more."""


@dataclass(frozen=True)
class SelfInfluence:
    """What scores the examples of a member on themselves.

    Attributes:
        engine: Gives the training gradients.
        member: Segments and their points.
        steps: Layer -> its filters in every segment.
    """

    engine: GradientEngine
    member: EnsembleMember
    steps: Mapping[str, Sequence["_Step"]]

    @classmethod
    def of(
        cls,
        engine: GradientEngine,
        member: EnsembleMember,
        curvatures: Sequence[SegmentCurvature | None],
    ) -> "SelfInfluence":
        """Prepare the filters once for all blocks.

        Args:
            engine: Gives the training gradients.
            member: Segments and their points.
            curvatures: One a segment; None where the filter needs none.
        """
        steps = {}
        for layer in engine.coverage.layers:
            filters, blocks, _ = layer_steps(layer.name, member, curvatures)
            before: list[CurvatureBlock | None] = [None, *blocks[:-1]]
            steps[layer.name] = [
                _Step.of(one, block, earlier, first=index == 0)
                for index, (one, block, earlier) in enumerate(
                    zip(filters, blocks, before, strict=True)
                )
            ]
        return cls(engine, member, steps)

    def scores(self, block: Block) -> Tensor:
        """Return every segment's share of the self-influence of a block, [segments, n]."""
        engine, segments = self.engine, self.member.segments
        own = engine.gradients(self.member.final, block)
        places = [segment.within(block) for segment in segments]
        met = [
            [engine.stage_gradients(point, block) for point in segment.points]
            if len(columns)
            else []
            for segment, columns in zip(segments, places, strict=True)
        ]
        shares = torch.zeros(len(segments), len(block), dtype=engine.dtype, device=engine.device)
        for name, steps in self.steps.items():
            meetings = [
                _Meeting(columns, [gradients[name] for gradients in at_points])
                for columns, at_points in zip(places, met, strict=True)
            ]
            for rows in torch.split(torch.arange(len(block)), _rows_at_once(own[name], steps)):
                for index, columns, share in _walked(own[name].rows(rows), steps, meetings, rows):
                    shares[index, columns] += share / len(segments[index].examples)
        return shares


@dataclass(frozen=True)
class _Step:
    """One layer's filters in one segment.

    Attributes:
        filter: F_r and F_S.
        block: The layer's curvature, if the filter needs one.
        response: F_r at every eigenvalue, or a constant.
        propagation: F_S in the eigenbasis; None in the first segment, where nothing is handed
            on, and where P̄ is in the way.
        onward: Takes what is handed on to the eigenbasis of the segment before, or to the
            parameters' coordinates where that one starts from them.
    """

    filter: SegmentFilter
    block: CurvatureBlock | None
    response: Tensor
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
    ) -> "_Step":
        if block is None:
            return cls(segment_filter, None, segment_filter.response(torch.ones(())))
        response = segment_filter.response(block.decayed(segment_filter.coupled_decay))
        if first or block.preconditioner is not None:
            return cls(segment_filter, block, response)
        rotates = before is not None and before.preconditioner is None
        onward = block.basis.into(before.basis) if rotates and before else block.basis.inverse()
        propagation = Propagation.of(segment_filter, block, tolerance=_TOLERANCE)
        return cls(segment_filter, block, response, propagation, onward)

    @property
    def short(self) -> bool:
        """Whether short sums go through it as such."""
        return self.block is None or self.block.preconditioner is None


@dataclass(frozen=True)
class _Meeting:
    """Places in a block of the examples of a segment's stage; their gradients at its points."""

    columns: Tensor
    gradients: Sequence[LayerGradient]


def _rows_at_once(own: LayerGradient, steps: Sequence[_Step]) -> int:
    if isinstance(own, FactoredGradient) and own.terms == 1 and all(one.short for one in steps):
        return len(own)
    one = own.rows(torch.arange(1)).dense()
    return max(1, _CHUNK_BYTES // (one.numel() * one.element_size()))


def _walked(
    own: LayerGradient, steps: Sequence[_Step], meetings: Sequence[_Meeting], rows: Tensor
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield segment, places in the block and N_stage times their shares, the last one first."""
    rotated: LayerGradient | None = None
    positions = own.terms if isinstance(own, FactoredGradient) else 1
    for index in reversed(range(len(steps))):
        step, meeting = steps[index], meetings[index]
        inside = torch.isin(meeting.columns, rows)
        columns = meeting.columns[inside]
        met = [gradient.rows(inside) for gradient in meeting.gradients]
        mine = columns - rows[0]
        if step.block is None:
            products = [_paired(step.response, own.rows(mine), one) for one in met]
        elif not step.short:
            walking = SegmentStep(own.dense(), step.filter, step.block)
            answer = walking.response()[mine]
            products = [one.paired_products(answer) for one in met]
            own = DenseGradient(walking.propagated()) if index else own
        else:
            basis = step.block.basis
            if rotated is None:
                rotated = own.rotated(basis.inputs, basis.outputs)
            products = [
                _paired(step.response, rotated.rows(mine), one.rotated(basis.inputs, basis.outputs))
                for one in met
            ]
            if step.propagation is not None and step.onward is not None:
                left = step.propagation.apply(rotated, positions=positions)
                handed_on = left.rotated(step.onward.inputs, step.onward.outputs)
                before = steps[index - 1].block
                rotated = None
                if before is not None and before.preconditioner is None:
                    rotated = handed_on
                else:
                    own = handed_on
        if len(columns):
            yield index, columns, torch.stack(products).mean(0)


def _paired(values: Tensor, own: LayerGradient, met: LayerGradient) -> Tensor:
    """Return Σ_jk F_jk v_jk g_jk of every example, [n]."""
    if not (isinstance(own, FactoredGradient) and isinstance(met, FactoredGradient)):
        return met.paired_products(values * own.dense())
    if not values.dim():
        return values * met.paired_products(own)
    if 1 not in (own.terms, met.terms):
        return met.paired_products(values * own.dense())
    outputs = own.output_gradients * met.output_gradients
    return ((outputs @ values) * (own.inputs * met.inputs)).sum((1, 2, 3))

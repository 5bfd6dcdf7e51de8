"""Self-influence: the score of a training example on its own training loss at the end.

The walk of `core.scoring`, with as many queries as examples and each meeting itself alone. In
the eigenbasis a segment's share is Σ_jk F_jk v_jk g_jk, v the example's own gradient at the end
as the later segments leave it, g its gradient at the segment's checkpoints. For outer products
that is a bilinear form, and nothing of the size of all examples' responses is ever formed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sourcetrace.core.curvature import CurvatureBlock, SegmentCurvature
from sourcetrace.core.examples import Block
from sourcetrace.core.factored_gradient import FactoredGradient
from sourcetrace.core.filters import SegmentFilter
from sourcetrace.core.gradient_source import GradientSource
from sourcetrace.core.gradients import DenseGradient, LayerGradient
from sourcetrace.core.plan import Member
from sourcetrace.core.scoring import SegmentStep
from sourcetrace.core.short_walk import propagated

_CHUNK_BYTES = 64 * 2**20
"""Bound on one dense gradient tensor."""

_TOLERANCE = 0.01
"""Of the short sums that stand for what is handed on; a ranking needs no more."""


def self_influence_block(
    source: GradientSource,
    member: Member,
    curvatures: Sequence[SegmentCurvature | None],
    block: Block,
) -> Tensor:
    """Return every segment's share of a member's self-influence of a block, [segments, n].

    Args:
        source: Gives the training gradients.
        member: Segments and their points.
        curvatures: One a segment; None where the filter needs none.
        block: Which examples.
    """
    own = source.gradients(member.final, block)
    places = [segment.within(block) for segment in member.segments]
    met = [
        [source.stage_gradients(point, block) for point in segment.points] if len(columns) else []
        for segment, columns in zip(member.segments, places, strict=True)
    ]
    shares = torch.zeros(len(member.segments), len(block), dtype=source.dtype, device=source.device)
    for layer in source.coverage.layers:
        name = layer.name
        steps = [
            _Step(
                segment.filter_of(name),
                None if fitted is None else fitted[name],
                columns,
                [gradients[name] for gradients in at_points],
            )
            for segment, fitted, columns, at_points in zip(
                member.segments, curvatures, places, met, strict=True
            )
        ]
        for rows in torch.split(torch.arange(len(block)), _rows_at_once(own[name], steps)):
            for index, columns, share in _walked(own[name].rows(rows), steps, rows):
                shares[index, columns] += share / len(member.segments[index].examples)
    return shares


@dataclass(frozen=True)
class _Step:
    """One layer in one segment.

    Attributes:
        filter: F_r and F_S.
        block: The layer's curvature, if the filter needs one.
        columns: Places in the block of examples that belong to the segment's stage.
        met: Their gradients at each checkpoint.
    """

    filter: SegmentFilter
    block: CurvatureBlock | None
    columns: Tensor
    met: Sequence[LayerGradient]

    @property
    def short(self) -> bool:
        """Whether short sums go through it as such."""
        return self.block is None or self.block.preconditioner is None


def _rows_at_once(own: LayerGradient, steps: Sequence[_Step]) -> int:
    if isinstance(own, FactoredGradient) and own.terms == 1 and all(one.short for one in steps):
        return len(own)
    one = own.rows(torch.arange(1)).dense()
    return max(1, _CHUNK_BYTES // (one.numel() * one.element_size()))


def _walked(
    own: LayerGradient, steps: Sequence[_Step], rows: Tensor
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield segment, places in the block and N_stage times their shares, the last one first."""
    for index in reversed(range(len(steps))):
        step = steps[index]
        inside = torch.isin(step.columns, rows)
        columns = step.columns[inside]
        met = [gradient.rows(inside) for gradient in step.met]
        mine = columns - rows[0]
        if step.block is None:
            constant = step.filter.response(torch.ones(()))
            products = [_paired(constant, own.rows(mine), one) for one in met]
            handed_on = own
        elif not step.short:
            walking = SegmentStep(own.dense(), step.filter, step.block)
            products = [one.paired_products(walking.response()[mine]) for one in met]
            handed_on = DenseGradient(walking.propagated()) if index else own
        else:
            basis = step.block.basis
            rotated = own.rotated(basis.inputs, basis.outputs)
            values = step.filter.response(step.block.decayed(step.filter.coupled_decay))
            products = [
                _paired(values, rotated.rows(mine), one.rotated(basis.inputs, basis.outputs))
                for one in met
            ]
            handed_on = own
            if index:
                handed_on = propagated(rotated, step.filter, step.block, tolerance=_TOLERANCE)
        if len(columns):
            yield index, columns, torch.stack(products).mean(0)
        own = handed_on


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

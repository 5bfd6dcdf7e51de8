"""Fitting the curvature and scoring, block by block, over a plan.

Memory holds the filtered queries, [segments, Q, P], and one block of training gradients; it
does not grow with the number of training examples. All of it is one member of a plan;
`core.scorers` takes the mean over several.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sourcetrace.core.covariance import LayerCovariances, mean_covariances
from sourcetrace.core.curvature import CurvatureBlock, EigenBasis, SegmentCurvature, eigen_basis
from sourcetrace.core.examples import Block, Examples
from sourcetrace.core.gradient_source import EvaluationPoint, GradientSource
from sourcetrace.core.gradients import LayerGradient
from sourcetrace.core.plan import Member, PlannedSegment
from sourcetrace.core.preconditioner import RankOneScaling, precondition, rank_one_scaling
from sourcetrace.core.scoring import checkpoint_scores, paired_segment_scores, walk

_SELF_INFLUENCE_BYTES = 64 * 2**20
"""Bound on one dense gradient tensor while self-influence is scored."""


def fit_segment(
    source: GradientSource,
    planned: PlannedSegment,
    covariances: Mapping[str, LayerCovariances],
    *,
    preconditioners: Mapping[str, Tensor] | None = None,
    progress: Iterable[tuple[EvaluationPoint, Block]] | None = None,
) -> SegmentCurvature:
    """Fit the EK-FAC curvature of one segment.

    Args:
        source: Gives the gradients with sampled labels.
        planned: The segment.
        covariances: Point id -> layer -> sums of A and G.
        preconditioners: P̄^½ by layer, [groups, D_out, D_in], of an adaptive optimiser.
        progress: The segment's (point, block) pairs, wrapped to show progress.
    """
    layers, dtype = source.coverage.layers, source.dtype
    roots = {name: root.to(source.device) for name, root in (preconditioners or {}).items()}
    scalings: dict[str, RankOneScaling] = {}
    bases: dict[str, EigenBasis] = {}
    for layer in layers:
        activation, pseudo_gradient = mean_covariances(
            [covariances[point.id][layer.name].to(source.device) for point in planned.points]
        )
        if layer.name in roots:
            scaling = rank_one_scaling(
                roots[layer.name], activation=activation, pseudo_gradient=pseudo_gradient
            )
            activation = scaling.scale_inputs(activation)
            pseudo_gradient = scaling.scale_outputs(pseudo_gradient)
            scalings[layer.name] = scaling
        bases[layer.name] = eigen_basis(activation, pseudo_gradient, dtype=dtype)
    sums = {
        layer.name: torch.zeros(layer.shape, dtype=torch.float64, device=source.device)
        for layer in layers
    }
    for point, block in progress if progress is not None else visits(source, planned.points):
        for name, gradient in source.sampled_gradients(point, block).items():
            basis = bases[name]
            scaled = (
                precondition(gradient, roots[name], scalings[name]) if name in roots else gradient
            )
            sums[name] += scaled.rotated_squares(basis.inputs, basis.outputs).double()
    terms = len(planned.points) * len(planned.examples)
    return {
        layer.name: CurvatureBlock(
            bases[layer.name], (sums[layer.name] / terms).to(dtype), roots.get(layer.name)
        )
        for layer in layers
    }


def visits(
    source: GradientSource, points: Iterable[EvaluationPoint]
) -> list[tuple[EvaluationPoint, Block]]:
    """Return every (point, block) with an example whose gradient is needed there."""
    return [
        (point, block) for point in points for block in source.blocks() if len(point.rows(block))
    ]


def stack_queries(source: GradientSource, member: Member, queries: Examples) -> dict[str, Tensor]:
    """Return the queries' measurement gradients by layer, [Q + 1, groups, D_out, D_in].

    The last row is the gradient of the queries' mean training loss: one more query, whose
    score is what removing an example does to all of them together.
    """
    rows: dict[str, list[Tensor]] = {}
    totals: dict[str, Tensor] = {}
    for block in queries.blocks(source.batch_size):
        _, measured, losses = source.query_gradients(queries, member.final, block)
        for name, layer in measured.items():
            rows.setdefault(name, []).append(layer.dense())
        for name, layer in losses.items():
            total = layer.dense().sum(0, keepdim=True)
            totals[name] = totals[name] + total if name in totals else total
    return {name: torch.cat([*rows[name], totals[name] / len(queries)]) for name in rows}


def query_responses(
    queries: Mapping[str, Tensor],
    member: Member,
    curvatures: Sequence[SegmentCurvature | None],
) -> list[dict[str, Tensor]]:
    """Return F_r(H̄_ℓ) v_ℓ / N_stage of a member's segments, by layer, [Q, groups, D_out, D_in].

    Args:
        queries: Query gradients by layer, [Q, groups, D_out, D_in].
        member: Segments and filters.
        curvatures: One a segment; None where the filter needs none.
    """
    counts = [len(segment.examples) for segment in member.segments]
    responses: list[dict[str, Tensor]] = [{} for _ in member.segments]
    for name, gradients in queries.items():
        filters = [segment.filter_of(name) for segment in member.segments]
        blocks = [None if fitted is None else fitted[name] for fitted in curvatures]
        walked = walk(gradients, filters, blocks, counts)
        for segment, response in zip(responses, walked, strict=True):
            segment[name] = response
    return responses


@dataclass(frozen=True)
class BlockScores:
    """Scores of a block's n examples for the rows of `stack_queries`.

    Attributes:
        shares: Every segment's share, [segments, Q + 1, n]; 0 for an example outside its stage.
        checkpoint_sums: A segment's share of its member's score, summed over the Q queries, had
            each of its points been the only one: [points, n] a segment, float64.
    """

    shares: Tensor
    checkpoint_sums: tuple[Tensor, ...]


def score_block_by_checkpoint(
    source: GradientSource,
    member: Member,
    responses: Sequence[Mapping[str, Tensor]],
    block: Block,
) -> BlockScores:
    """Return the scores of a block, and how they differ between the checkpoints.

    Args:
        source: Gives the training gradients.
        member: Segments and their points.
        responses: Of every segment, to the rows of `stack_queries`.
        block: Which examples.
    """
    first = next(iter(responses[0].values()))
    shares = first.new_zeros(len(member.segments), first.shape[0], len(block))
    sums = []
    for index, planned in enumerate(member.segments):
        columns, gradients = _stage_gradients(source, planned, block)
        own = first.new_zeros(len(planned.points), len(block), dtype=torch.float64)
        # One checkpoint at a time: all of them at once would be as many times the memory.
        for number, scores in enumerate(checkpoint_scores(responses[index], gradients)):
            shares[index][:, columns] += scores
            own[number, columns] = scores[:-1].double().sum(0)
        shares[index] /= len(planned.points)
        sums.append(own)
    return BlockScores(shares, tuple(sums))


def self_influence_block(
    source: GradientSource,
    member: Member,
    curvatures: Sequence[SegmentCurvature | None],
    block: Block,
) -> Tensor:
    """Return every segment's share of a member's self-influence of a block, [segments, n].

    The measurement is the example's own training loss at the final weights.
    """
    own = source.gradients(member.final, block)
    staged = [_stage_gradients(source, planned, block) for planned in member.segments]
    any_layer = next(iter(own.values()))
    reference = next(iter(any_layer.tensors().values()))
    scores = reference.new_zeros(len(member.segments), len(block))
    widest = max(layer.size for layer in source.coverage.layers)
    rows = max(1, _SELF_INFLUENCE_BYTES // (widest * reference.element_size()))
    for part in torch.split(torch.arange(len(block)), rows):
        # Layer by layer: a dense gradient of all layers together would be the whole model.
        for name in (layer.name for layer in source.coverage.layers):
            layer = own[name]
            responses = query_responses({name: layer.rows(part).dense()}, member, curvatures)
            for index, (columns, gradients) in enumerate(staged):
                inside = torch.isin(columns, part)
                targets = columns[inside]
                if len(targets) == 0:
                    continue
                paired = {name: responses[index][name][targets - part[0]]}
                mine = [{name: gradient[name].rows(inside)} for gradient in gradients]
                scores[index, targets] += paired_segment_scores(paired, mine)
    return scores


def _stage_gradients(
    source: GradientSource, planned: PlannedSegment, block: Block
) -> tuple[Tensor, list[dict[str, LayerGradient]]]:
    """Return the columns of a block in a segment's stage, and their gradients at its points."""
    inside = planned.examples[(planned.examples >= block.start) & (planned.examples < block.stop)]
    if len(inside) == 0:
        return inside, []
    gradients = [source.stage_gradients(point, block) for point in planned.points]
    return inside - block.start, gradients

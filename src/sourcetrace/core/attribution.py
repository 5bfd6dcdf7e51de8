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
from sourcetrace.core.evaluation_point import EvaluationPoint
from sourcetrace.core.examples import Block, Examples
from sourcetrace.core.filters import SegmentFilter
from sourcetrace.core.gradient_source import GradientSource
from sourcetrace.core.gradients import LayerGradient, concatenate
from sourcetrace.core.plan import Member, PlannedSegment
from sourcetrace.core.preconditioner import RankOneScaling, precondition, rank_one_scaling
from sourcetrace.core.scoring import Response, checkpoint_scores, response_rows, walk


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


@dataclass(frozen=True)
class QueryGradients:
    """Gradients of Q queries at a member's final weights, by layer.

    Attributes:
        measured: Of the measurements, Q rows.
        mean_loss: Of their mean training loss, [1, groups, D_out, D_in]: one more query, whose
            score is what removing an example does to all of them together.
    """

    measured: Mapping[str, LayerGradient]
    mean_loss: Mapping[str, Tensor]

    def dense(self) -> dict[str, Tensor]:
        """Return both, the mean loss behind the measurements, [Q + 1, groups, D_out, D_in]."""
        return {
            name: torch.cat([gradient.dense(), self.mean_loss[name]])
            for name, gradient in self.measured.items()
        }


def query_gradients(source: GradientSource, member: Member, queries: Examples) -> QueryGradients:
    """Measure the queries."""
    measured: list[Mapping[str, LayerGradient]] = []
    totals: dict[str, Tensor] = {}
    for block in queries.blocks(source.batch_size):
        _, gradients, losses = source.query_gradients(queries, member.final, block)
        measured.append(gradients)
        for name, layer in losses.items():
            total = layer.summed()
            totals[name] = totals[name] + total if name in totals else total
    return QueryGradients(
        concatenate(measured), {name: total / len(queries) for name, total in totals.items()}
    )


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
    responses: list[dict[str, Tensor]] = [{} for _ in member.segments]
    for name, gradients in queries.items():
        walked = walk(gradients, *layer_steps(name, member, curvatures))
        for segment, response in zip(responses, walked, strict=True):
            segment[name] = response
    return responses


def layer_steps(
    name: str, member: Member, curvatures: Sequence[SegmentCurvature | None]
) -> tuple[list[SegmentFilter], list[CurvatureBlock | None], list[int]]:
    """Return a layer's filters and curvature, and N_stage, segment by segment."""
    return (
        [segment.filter_of(name) for segment in member.segments],
        [None if fitted is None else fitted[name] for fitted in curvatures],
        [len(segment.examples) for segment in member.segments],
    )


@dataclass(frozen=True)
class BlockScores:
    """Scores of a block's n examples for the queries and their mean loss.

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
    responses: Sequence[Mapping[str, Response]],
    block: Block,
) -> BlockScores:
    """Return the scores of a block, and how they differ between the checkpoints.

    Args:
        source: Gives the training gradients.
        member: Segments and their points.
        responses: Of every segment, to the queries and, in the last row, their mean loss.
        block: Which examples.
    """
    shares = torch.zeros(
        len(member.segments),
        response_rows(responses[0]),
        len(block),
        dtype=source.dtype,
        device=source.device,
    )
    sums = []
    for index, planned in enumerate(member.segments):
        columns, gradients = _stage_gradients(source, planned, block)
        own = shares.new_zeros(len(planned.points), len(block), dtype=torch.float64)
        # One checkpoint at a time: all of them at once would be as many times the memory.
        for number, scores in enumerate(checkpoint_scores(responses[index], gradients)):
            shares[index][:, columns] += scores
            own[number, columns] = scores[:-1].double().sum(0)
        shares[index] /= len(planned.points)
        sums.append(own)
    return BlockScores(shares, tuple(sums))


def _stage_gradients(
    source: GradientSource, planned: PlannedSegment, block: Block
) -> tuple[Tensor, list[dict[str, LayerGradient]]]:
    """Return the columns of a block in a segment's stage, and their gradients at its points."""
    columns = planned.within(block)
    if len(columns) == 0:
        return columns, []
    return columns, [source.stage_gradients(point, block) for point in planned.points]

"""Scores of a block of training examples: their gradients against the segments' responses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sourcetrace.core.engine.gradient_engine import GradientEngine
from sourcetrace.core.gradients.per_example import LayerGradient
from sourcetrace.core.model.examples import Block
from sourcetrace.core.plan.plan import EnsembleMember, PlannedSegment
from sourcetrace.core.responses.propagation import Response, checkpoint_scores, response_rows


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
    engine: GradientEngine,
    member: EnsembleMember,
    responses: Sequence[Mapping[str, Response]],
    block: Block,
) -> BlockScores:
    """Return the scores of a block, and how they differ between the checkpoints.

    Args:
        engine: Gives the training gradients.
        member: Segments and their points.
        responses: Of every segment, to the queries and, in the last row, their mean loss.
        block: Which examples.
    """
    shares = torch.zeros(
        len(member.segments),
        response_rows(responses[0]),
        len(block),
        dtype=engine.dtype,
        device=engine.device,
    )
    sums = []
    for index, planned in enumerate(member.segments):
        columns, gradients = _stage_gradients(engine, planned, block)
        own = shares.new_zeros(len(planned.points), len(block), dtype=torch.float64)
        # One checkpoint at a time: all of them at once would be as many times the memory.
        for number, scores in enumerate(checkpoint_scores(responses[index], gradients)):
            shares[index][:, columns] += scores
            own[number, columns] = scores[:-1].double().sum(0)
        shares[index] /= len(planned.points)
        sums.append(own)
    return BlockScores(shares, tuple(sums))


def _stage_gradients(
    engine: GradientEngine, planned: PlannedSegment, block: Block
) -> tuple[Tensor, list[dict[str, LayerGradient]]]:
    """Return the columns of a block in a segment's stage, and their gradients at its points."""
    columns = planned.within(block)
    if len(columns) == 0:
        return columns, []
    return columns, [engine.stage_gradients(point, block) for point in planned.points]

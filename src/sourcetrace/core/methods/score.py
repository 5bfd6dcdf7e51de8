"""Scores of a block of training examples: their gradients against the segments' responses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sourcetrace.core.engine.gradient_engine import GradientEngine
from sourcetrace.core.gradients.per_example import Gradients
from sourcetrace.core.model.examples import Block
from sourcetrace.core.plan.plan import EnsembleMember
from sourcetrace.core.responses.propagation import Response, checkpoint_scores


@dataclass(frozen=True)
class BlockGradients:
    """Training gradients of a block's n examples at all points of a member, fetched once.

    Attributes:
        block: The examples.
        final: At the final weights, n rows.
        places: Of every segment, the places in the block of its stage's examples.
        met: Of every segment, at each of its points, the gradients of these; empty where there
            are none.
    """

    block: Block
    final: Gradients
    places: Sequence[Tensor]
    met: Sequence[Sequence[Gradients]]

    @classmethod
    def of(cls, engine: GradientEngine, member: EnsembleMember, block: Block) -> "BlockGradients":
        """Fetch them."""
        fetched: dict[str, Gradients] = {member.final.id: engine.gradients(member.final, block)}
        places = [segment.within(block) for segment in member.segments]
        met: list[list[Gradients]] = []
        for segment, columns in zip(member.segments, places, strict=True):
            met.append([])
            for point in segment.points if len(columns) else ():
                if point.id not in fetched:
                    fetched[point.id] = engine.gradients(point, block)
                inside = point.in_stage(point.rows(block))
                met[-1].append(
                    fetched[point.id]
                    if bool(inside.all())  # the usual case; indexing would copy
                    else {name: one.rows(inside) for name, one in fetched[point.id].items()}
                )
        return cls(block, fetched[member.final.id], places, met)


@dataclass(frozen=True)
class BlockScores:
    """Scores of a block's n examples for the queries and their mean loss.

    Attributes:
        shares: Every segment's share, [segments, Q + 1, n]; 0 for an example outside its stage.
        checkpoint_sums: A segment's share of its member's score, summed over the Q queries, had
            each of its points been the only one: [points, n] a segment, float64.
        self_influence: Every segment's share of each example's own, [segments, n]; [0, n] where
            it was not asked for.
    """

    shares: Tensor
    checkpoint_sums: tuple[Tensor, ...]
    self_influence: Tensor

    @classmethod
    def of(
        cls,
        member: EnsembleMember,
        responses: Sequence[Mapping[str, Response]],
        gradients: BlockGradients,
        *,
        like: Tensor,
    ) -> "BlockScores":
        """Return the scores of a block, and how they differ between the checkpoints.

        Args:
            member: Segments and their points.
            responses: Of every segment, to the queries and, in the last row, their mean loss.
            gradients: Of the block.
            like: Has the dtype and device.
        """
        examples = len(gradients.block)
        any_layer = next(iter(responses[0].values()))
        rows = sum(map(len, any_layer)) if isinstance(any_layer, tuple) else len(any_layer)
        shares = like.new_zeros(len(member.segments), rows, examples)
        sums = []
        for index, planned in enumerate(member.segments):
            columns, points = gradients.places[index], len(planned.points)
            own = shares.new_zeros(points, examples, dtype=torch.float64)
            # One checkpoint at a time: all of them at once would be as many times the memory.
            by_checkpoint = checkpoint_scores(responses[index], gradients.met[index])
            for number, scores in enumerate(by_checkpoint):
                shares[index][:, columns] += scores
                own[number, columns] = scores[:-1].double().sum(0)
            shares[index] /= points
            sums.append(own)
        return cls(shares, tuple(sums), like.new_zeros(0, examples))

"""Scores of a block of training examples: their gradients against the segments' responses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sourcetrace.core.engine.gradient_engine import GradientEngine
from sourcetrace.core.gradients.per_example import Gradients, mean
from sourcetrace.core.model.examples import Block
from sourcetrace.core.plan.plan import EnsembleMember
from sourcetrace.core.responses.propagation import (
    Response,
    products,
    row_count,
    summed_measurements,
)


@dataclass(frozen=True)
class BlockGradients:
    """Training gradients of a block's n examples at all points of a member, fetched once.

    Attributes:
        count: n, of those that were not set aside.
        final: At the final weights, n rows.
        places: Of every segment, the places among them of its stage's examples.
        met: Of every segment, at each of its points, the gradients of these; empty where there
            are none.
    """

    count: int
    final: Gradients
    places: Sequence[Tensor]
    met: Sequence[Sequence[Gradients]]

    @classmethod
    def of(cls, engine: GradientEngine, member: EnsembleMember, block: Block) -> "BlockGradients":
        """Fetch them."""
        fetched: dict[str, Gradients] = {member.final.id: engine.gradients(member.final, block)}
        rows = member.final.rows(block)
        places: list[Tensor] = []
        met: list[list[Gradients]] = []
        for segment in member.segments:
            own = block.among(segment.examples)
            places.append(torch.searchsorted(rows, own))
            met.append([])
            for point in segment.points if len(own) else ():
                if point.id not in fetched:
                    fetched[point.id] = engine.gradients(point, block)
                inside = torch.isin(point.rows(block), own)
                met[-1].append(
                    fetched[point.id]
                    if bool(inside.all())  # the usual case; indexing would copy
                    else {name: one.rows(inside) for name, one in fetched[point.id].items()}
                )
        return cls(len(rows), fetched[member.final.id], places, met)


@dataclass(frozen=True)
class BlockScores:
    """Scores of a block's n examples for the queries and their mean loss.

    Attributes:
        shares: Every segment's share, [segments, Q + 1, n]; 0 for an example outside its stage,
            and one that was set aside.
        checkpoint_sums: A segment's share of its member's score, summed over the Q queries, had
            each of its points been the only one: [points, n] a segment, float64.
        self_influence: Every segment's share of each example's own, [segments, n]; [0, n] where
            it was not asked for.
    """

    shares: Tensor
    checkpoint_sums: tuple[Tensor, ...]
    self_influence: Tensor

    def spread(self, places: Tensor, count: int) -> "BlockScores":
        """Return the scores of a block of `count` examples, of which these are at some places."""

        def spread(values: Tensor) -> Tensor:
            whole = values.new_zeros(*values.shape[:-1], count)
            whole[..., places] = values[..., : len(places)]
            return whole

        own = self.self_influence
        return BlockScores(
            spread(self.shares), tuple(map(spread, self.checkpoint_sums)), spread(own)
        )

    def __add__(self, other: "BlockScores") -> "BlockScores":
        """Return the scores by the layers of both."""
        return BlockScores(
            self.shares + other.shares,
            tuple(map(torch.add, self.checkpoint_sums, other.checkpoint_sums)),
            self.self_influence + other.self_influence,
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return what `of_tensors` rebuilds it of."""
        sums = {f"sums/{number:06d}": one for number, one in enumerate(self.checkpoint_sums)}
        return {"shares": self.shares, "self_influence": self.self_influence, **sums}

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor]) -> "BlockScores":
        """Rebuild the scores."""
        sums = tuple(tensors[name] for name in sorted(tensors) if name.startswith("sums/"))
        return cls(tensors["shares"], sums, tensors["self_influence"])


@dataclass(frozen=True)
class SegmentResponses:
    """What training gradients meet: the segments' responses to the queries, and to their loss.

    Attributes:
        member: Segments and their points.
        responses: Of every segment, by layer; the mean loss's in the last row.
        like: Has the dtype and device.
    """

    member: EnsembleMember
    responses: Sequence[Mapping[str, Response]]
    like: Tensor

    @cached_property
    def _summed(self) -> list[dict[str, Tensor]]:
        return [
            {name: summed_measurements(one, self.like.dtype) for name, one in segment.items()}
            if len(planned.points) > 1
            else {}
            for segment, planned in zip(self.responses, self.member.segments, strict=True)
        ]

    def scores(self, gradients: BlockGradients) -> BlockScores:
        """Return the scores of a block, and how they differ between the checkpoints.

        A segment's share is of the mean gradient over its checkpoints, and one product; what one
        checkpoint alone would give needs the sum of the queries only.
        """
        segments, examples = self.member.segments, gradients.count
        any_layer = next(iter(self.responses[0].values()))
        shares = self.like.new_zeros(len(segments), row_count(any_layer), examples)
        sums = [
            shares.new_zeros(len(one.points), examples, dtype=torch.float64) for one in segments
        ]
        for index, (columns, met) in enumerate(zip(gradients.places, gradients.met, strict=True)):
            # Once: a copy to a GPU waits for all that it was given.
            places = columns.to(shares.device)
            # The responses' order: a cache may return the layers in another, and sums of floats
            # in another order differ in their last bits.
            for name, response in self.responses[index].items() if met else ():
                at_points = [one[name] for one in met]
                found = products(mean(at_points), response)
                shares[index][:, places] += found
                if len(at_points) == 1:
                    sums[index][0, places] += found[:-1].double().sum(0)
                    continue
                for number, one in enumerate(at_points):
                    alone = one.products(self._summed[index][name])[0]
                    sums[index][number, places] += alone.double()
        return BlockScores(shares, tuple(sums), self.like.new_zeros(0, examples))

"""Scores by groups of layers: a score is a sum over layers, and each group's is added to it.

Responses, curvature and query gradients are in memory for one group at a time, and every group
visits the training examples anew. A method whose layers belong together has one group of all.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, product

from sourcetrace.core.curvature.blocks import SegmentCurvature
from sourcetrace.core.engine.gradient_engine import GradientEngine
from sourcetrace.core.layers.layer import Layer
from sourcetrace.core.methods.astra import SegmentSolve
from sourcetrace.core.methods.score import BlockScores
from sourcetrace.core.methods.scorers import MeanScorer
from sourcetrace.core.model.examples import Block
from sourcetrace.core.responses.low_rank_responses import ScoreCheck

_Prepare = Callable[[GradientEngine, Sequence[SegmentCurvature | None]], MeanScorer]
_Visit = tuple[Sequence[Layer], Block]


@dataclass
class GroupedScorer:
    """Scorers of groups of layers, one after the other.

    Attributes:
        prepare: Makes a group's scorer of the engine and the curvature of its layers.
        engine: Of all layers.
        curvatures: One a segment, read by the layer; None where the method needs none.
        groups: The layers, each in one group.
        solves: How well ASTRA's systems were solved, where there were any.
        checks: How far the scores so far are from the exact filters', a member each.
    """

    prepare: _Prepare
    engine: GradientEngine
    curvatures: Sequence[SegmentCurvature | None]
    groups: Sequence[Sequence[Layer]]
    solves: Sequence[SegmentSolve] = ()
    checks: list[ScoreCheck] = field(default_factory=list)

    def scored(
        self,
        *,
        progress: Callable[[Sequence[_Visit]], Iterable[_Visit]] = iter,
        self_influence: bool = True,
    ) -> Iterator[tuple[Block, BlockScores]]:
        """Yield every block with its scores, in order; the first when the last group has it.

        Args:
            progress: Wraps the visits, of every group at every block.
            self_influence: Whether the examples' scores for themselves come with it.
        """
        visits = progress(list(product(self.groups, self.engine.blocks())))
        totals: dict[Block, BlockScores] = {}
        for _, of_group in groupby(visits, key=lambda visit: id(visit[0])):
            scorer = None  # what the last group's holds makes room first
            for group, block in of_group:
                scorer = scorer or self.prepared(group)
                found = scorer.scores(block, self_influence=self_influence)
                if block in totals:
                    found = totals.pop(block) + found
                if group is self.groups[-1]:
                    yield block, found
                else:
                    totals[block] = found

    def prepared(self, group: Sequence[Layer]) -> MeanScorer:
        """Return the scorer of a group of layers."""
        engine = self.engine.of_layers(group)
        curvatures = [
            None
            if segment is None
            else {layer.name: segment[layer.name].to(engine.device) for layer in group}
            for segment in self.curvatures
        ]
        scorer = self.prepare(engine, curvatures)
        self.solves = scorer.solves
        if self.checks:
            self.checks = [
                replace(
                    one,
                    error=max(one.error, other.error),
                    choices=one.choices + other.choices,
                )
                for one, other in zip(self.checks, scorer.checks, strict=True)
            ]
        else:
            self.checks = list(scorer.checks)
        return scorer

"""One scorer a family of methods, all with the same two questions.

The frame's methods, ASTRA among them, meet every training gradient with the queries' responses;
TRAK does so too and has a self-influence of its own; representation similarity uses no gradient.
Self-influence under ASTRA is EK-FAC's: an exact solve for every training example is out of reach.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from sourcetrace.core.astra import Report, SegmentSolve, SolveSettings, astra_responses
from sourcetrace.core.attribution import (
    query_responses,
    score_block,
    self_influence_block,
    stack_queries,
)
from sourcetrace.core.curvature import SegmentCurvature
from sourcetrace.core.examples import Block, Examples
from sourcetrace.core.gradient_source import GradientSource
from sourcetrace.core.methods import Method
from sourcetrace.core.plan import AttributionPlan
from sourcetrace.core.representations import representations
from sourcetrace.core.trak import TrakFit, fit_trak


class Scorer(Protocol):
    """Scores of training examples, block by block."""

    def scores(self, block: Block) -> Tensor:
        """Return every segment's share, [segments, Q + 1, n]; last, the mean training loss."""

    def self_influence(self, block: Block) -> Tensor:
        """Return every segment's share of the self-influence, [segments, n]."""


@dataclass(frozen=True)
class FrameScorer:
    """Training gradients against the queries' responses.

    Attributes:
        source: The training gradients.
        plan: Segments and filters.
        curvatures: EK-FAC of every segment.
        responses: Of the queries, by segment and layer.
        solves: How well they were solved for, where they were.
    """

    source: GradientSource
    plan: AttributionPlan
    curvatures: Sequence[SegmentCurvature | None]
    responses: Sequence[Mapping[str, Tensor]]
    solves: Sequence[SegmentSolve] = field(default=())

    def scores(self, block: Block) -> Tensor:
        """Return every segment's share, [segments, Q + 1, n]."""
        return score_block(self.source, self.plan, self.responses, block)

    def self_influence(self, block: Block) -> Tensor:
        """Return every segment's share of the self-influence, by EK-FAC, [segments, n]."""
        return self_influence_block(self.source, self.plan, self.curvatures, block)


@dataclass(frozen=True)
class TrakScorer:
    """Training gradients at the final weights against the queries' responses."""

    source: GradientSource
    plan: AttributionPlan
    fit: TrakFit
    responses: Sequence[Mapping[str, Tensor]]

    def scores(self, block: Block) -> Tensor:
        """Return the scores, [1, Q + 1, n]."""
        return score_block(self.source, self.plan, self.responses, block)

    def self_influence(self, block: Block) -> Tensor:
        """Return the self-influence, [1, n]."""
        return self.fit.self_influence(self.source.gradients(self.plan.final, block)).unsqueeze(0)


@dataclass(frozen=True)
class RepresentationScorer:
    """Cosines with the queries' representations, as removals of what helps.

    Attributes:
        source: The training examples and the model.
        plan: Whose final weights count.
        queries: Their representations, [Q, D].
        sign: Of the measurement's change when a helping example is removed.
    """

    source: GradientSource
    plan: AttributionPlan
    queries: Tensor
    sign: int

    def scores(self, block: Block) -> Tensor:
        """Return the scores, [1, Q + 1, n]; a loss rises when what resembles it is removed."""
        own = representations(self.source, self.source.training, self.plan.final, block)
        cosines = self.queries @ own.T
        return torch.cat([self.sign * cosines, cosines.mean(0, keepdim=True)]).unsqueeze(0)

    def self_influence(self, block: Block) -> Tensor:
        """Return 1 for every example, [1, n]: each resembles itself."""
        return self.queries.new_ones(1, len(block))


def make_scorer(
    method: Method,
    source: GradientSource,
    plan: AttributionPlan,
    curvatures: Sequence[SegmentCurvature | None],
    queries: Examples,
    *,
    higher_is_better: bool,
    solve: SolveSettings | None = None,
    projection_dimension: int = 2048,
    scales: Sequence[float] | None = None,
    report: Report | None = None,
) -> Scorer:
    """Prepare the queries and return what scores training examples for them.

    Args:
        method: Name of the method.
        source: The training gradients.
        plan: Of this method.
        curvatures: EK-FAC of every segment; None where the method needs none.
        queries: The queries.
        higher_is_better: Whether a higher measurement is; similarity takes its sign from it.
        solve: How exactly ASTRA solves.
        projection_dimension: TRAK's k.
        scales: What each segment's eigenvalues are multiplied with; 1 by default.
        report: Told of every iteration of ASTRA.
    """
    if method == "representation_similarity":
        blocks = queries.blocks(source.batch_size)
        found = [representations(source, queries, plan.final, block) for block in blocks]
        return RepresentationScorer(source, plan, torch.cat(found), -1 if higher_is_better else 1)
    gradients = stack_queries(source, plan, queries)
    if method == "trak":
        fit = fit_trak(source, plan, dimension=projection_dimension)
        return TrakScorer(source, plan, fit, fit.responses(gradients))
    if method in ("astra_source", "astra_influence"):
        responses, solves = astra_responses(
            source, gradients, plan, curvatures, settings=solve, scales=scales, report=report
        )
        return FrameScorer(source, plan, curvatures, responses, solves)
    responses = query_responses(gradients, plan, curvatures, scales=scales)
    return FrameScorer(source, plan, curvatures, responses)

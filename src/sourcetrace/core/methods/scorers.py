"""One scorer a family of methods, all with the same two questions.

The frame's methods, ASTRA among them, meet every training gradient with the queries' responses;
TRAK does so too and has a self-influence of its own; representation similarity uses no gradient.
Self-influence under ASTRA is EK-FAC's: an exact solve for every training example is out of reach.
Each member of an ensemble has a scorer; the ensemble's is their mean.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from sourcetrace.core.curvature.blocks import SegmentCurvature
from sourcetrace.core.engine.gradient_engine import GradientEngine
from sourcetrace.core.methods.astra import Report, SegmentSolve, SolveSettings, astra_responses
from sourcetrace.core.methods.representations import representations
from sourcetrace.core.methods.score import BlockGradients, BlockScores, SegmentResponses
from sourcetrace.core.methods.self_influence import SelfInfluence
from sourcetrace.core.methods.trak import TrakFit
from sourcetrace.core.model.examples import Block, EvaluationPoint, Examples
from sourcetrace.core.model.precision import Precision, products_in
from sourcetrace.core.plan.methods import METHODS
from sourcetrace.core.plan.plan import AttributionPlan, EnsembleMember
from sourcetrace.core.responses.low_rank_responses import ScoreCheck, low_rank_responses
from sourcetrace.core.responses.queries import QueryGradients


class _Scorer(Protocol):
    """Scores of training examples, block by block."""

    def scores(self, block: Block, *, self_influence: bool = True) -> BlockScores:
        """Return every segment's share; the last query is the mean training loss.

        Args:
            block: The examples; those at its member's final weights count, at least one.
            self_influence: Whether their scores for themselves come with it.
        """


@dataclass(frozen=True)
class FrameScorer:
    """Training gradients against the queries' responses.

    Attributes:
        engine: The training gradients.
        member: Segments and filters.
        curvatures: EK-FAC of every segment.
        responses: Of the queries.
        precision: Of the products with them.
    """

    engine: GradientEngine
    member: EnsembleMember
    curvatures: Sequence[SegmentCurvature | None]
    responses: SegmentResponses
    precision: Precision = "float32"

    def scores(self, block: Block, *, self_influence: bool = True) -> BlockScores:
        """Return every segment's share; self-influence is by EK-FAC."""
        gradients = BlockGradients.of(self.engine, self.member, block)
        with products_in(self.precision, self.engine.device):
            found = self.responses.scores(gradients)
        if not self_influence:
            return found
        return replace(found, self_influence=self._self_influence.scores(gradients))

    @cached_property
    def _self_influence(self) -> SelfInfluence:
        layers = [layer.name for layer in self.engine.coverage.layers]
        return SelfInfluence.of(self.member, self.curvatures, layers, like=self.engine.like)


@dataclass(frozen=True)
class _TrakScorer:
    """Training gradients at the final weights against the queries' responses."""

    engine: GradientEngine
    member: EnsembleMember
    fit: TrakFit
    responses: SegmentResponses

    def scores(self, block: Block, *, self_influence: bool = True) -> BlockScores:
        """Return the scores, of one segment."""
        gradients = BlockGradients.of(self.engine, self.member, block)
        found = self.responses.scores(gradients)
        if not self_influence:
            return found
        own = self.fit.self_influence(gradients.final).unsqueeze(0)
        return replace(found, self_influence=own)


@dataclass(frozen=True)
class _RepresentationScorer:
    """Cosines with the queries' representations, as removals of what helps.

    Attributes:
        engine: The training examples and the model.
        member: Whose final weights count.
        queries: Their representations, [Q, D].
        sign: Of the measurement's change when a helping example is removed.
    """

    engine: GradientEngine
    member: EnsembleMember
    queries: Tensor
    sign: int

    def scores(self, block: Block, *, self_influence: bool = True) -> BlockScores:
        """Return the scores, of one segment; a loss rises when what resembles it is removed.

        Self-influence is 1 for every example: each resembles itself.
        """
        own = representations(self.engine, self.engine.training, self.member.final, block)
        cosines = self.queries @ own.T
        shares = torch.cat([self.sign * cosines, cosines.mean(0, keepdim=True)]).unsqueeze(0)
        ones = self.queries.new_ones(int(self_influence), len(own))
        return BlockScores(shares, (shares[:, :-1].double().sum(1),), ones)


@dataclass(frozen=True)
class ScoreSettings:
    """How exactly queries become scores.

    Attributes:
        solve: How exactly ASTRA solves; None for its defaults.
        projection_dimension: TRAK's k.
        tolerance: Of the relative error of scores by low-rank sums; 0 for the exact filters.
        precision: Of the products of queries and training gradients, within the tolerance.
    """

    solve: SolveSettings | None = None
    projection_dimension: int = 2048
    tolerance: float = 1e-3
    precision: Precision = "float32"


@dataclass(frozen=True)
class MeanScorer:
    """The mean over the members of an ensemble; one, for an ordinary run.

    Attributes:
        members: A scorer each, in the order of the plan.
        final: Any member's final weights; all training examples that score are there.
        solves: How well ASTRA's systems were solved, where there were any.
        checks: How far the scores are from those of the exact filters, a member each.
    """

    members: Sequence[_Scorer]
    final: EvaluationPoint
    solves: Sequence[SegmentSolve] = field(default=())
    checks: Sequence[ScoreCheck] = field(default=())

    @classmethod
    def of(
        cls,
        method: str,
        engine: GradientEngine,
        plan: AttributionPlan,
        curvatures: Sequence[SegmentCurvature | None],
        queries: Examples,
        *,
        higher_is_better: bool,
        settings: ScoreSettings | None = None,
        report: Report | None = None,
    ) -> "MeanScorer":
        """Prepare the queries and return what scores training examples for them.

        Args:
            method: Name of the method.
            engine: The training gradients.
            plan: Of this method.
            curvatures: EK-FAC of every segment; None where the method needs none.
            queries: The queries.
            higher_is_better: Whether a higher measurement is; similarity takes its sign from it.
            settings: How exactly.
            report: Told of every iteration of ASTRA.
        """
        settings = settings or ScoreSettings()
        members: list[_Scorer] = []
        solves: list[SegmentSolve] = []
        checks: list[ScoreCheck] = []
        scoring = METHODS[method].scoring
        for member, fitted in plan.by_member(curvatures):
            if scoring == "representations":
                blocks = queries.blocks(engine.batch_size)
                found = [representations(engine, queries, member.final, block) for block in blocks]
                sign = -1 if higher_is_better else 1
                members.append(_RepresentationScorer(engine, member, torch.cat(found), sign))
                continue
            gradients = QueryGradients.of(engine, member, queries)
            if scoring == "projections":
                fit = TrakFit.of(engine, member, dimension=settings.projection_dimension)
                responses = SegmentResponses(member, fit.responses(gradients.dense()), engine.like)
                members.append(_TrakScorer(engine, member, fit, responses))
            elif scoring == "exact solves":
                solved, own = astra_responses(
                    engine,
                    gradients.dense(),
                    member,
                    fitted,
                    settings=settings.solve,
                    report=report,
                )
                responses = SegmentResponses(member, solved, engine.like)
                members.append(FrameScorer(engine, member, fitted, responses))
                solves += own
            else:
                propagated, check = low_rank_responses(
                    engine,
                    gradients,
                    member,
                    fitted,
                    tolerance=settings.tolerance,
                    precision=settings.precision,
                )
                responses = SegmentResponses(member, propagated, engine.like)
                members.append(FrameScorer(engine, member, fitted, responses, check.precision))
                checks.append(check)
        return cls(members, plan.members[0].final, solves, checks)

    @property
    def responses(self) -> list[SegmentResponses]:
        """What gradients meet, of every member; none where scores are no products with them."""
        by_gradient = (FrameScorer, _TrakScorer)
        return [one.responses for one in self.members if isinstance(one, by_gradient)]

    def scores(self, block: Block, *, self_influence: bool = True) -> BlockScores:
        """Return every segment's share of the mean, one member after the other."""
        rows = self.final.rows(block)
        # Where none is left, another one's says how many queries and segments there are.
        first = int(self.final.examples[0])
        met = block if len(rows) else Block(first, first + 1)
        found = [member.scores(met, self_influence=self_influence) for member in self.members]
        scores = BlockScores(
            torch.cat([one.shares for one in found]) / len(found),
            tuple(sums for one in found for sums in one.checkpoint_sums),
            torch.cat([one.self_influence for one in found]) / len(found),
        )
        if len(rows) == len(block):
            return scores
        return scores.spread(rows - block.start, len(block))

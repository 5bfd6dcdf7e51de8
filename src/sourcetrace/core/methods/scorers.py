"""One scorer a family of methods, all with the same two questions.

The frame's methods, ASTRA among them, meet every training gradient with the queries' responses;
TRAK does so too and has a self-influence of its own; representation similarity uses no gradient.
Self-influence under ASTRA is EK-FAC's: an exact solve for every training example is out of reach.
Each member of an ensemble has a scorer; the ensemble's is their mean.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Protocol

import torch
from torch import Tensor

from sourcetrace.core.curvature.blocks import SegmentCurvature
from sourcetrace.core.engine.gradient_engine import GradientEngine
from sourcetrace.core.methods.astra import SegmentSolve
from sourcetrace.core.methods.preparation import Prepared, QueryPreparation
from sourcetrace.core.methods.representations import representations
from sourcetrace.core.methods.score import BlockGradients, BlockScores, SegmentResponses
from sourcetrace.core.methods.self_influence import SelfInfluence
from sourcetrace.core.methods.trak import TrakFit
from sourcetrace.core.model.examples import Block, EvaluationPoint
from sourcetrace.core.model.precision import Precision, products_in
from sourcetrace.core.plan.plan import AttributionPlan, EnsembleMember
from sourcetrace.core.responses.score_check import ScoreCheck, settle


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
        preparation: QueryPreparation,
        plan: AttributionPlan,
        curvatures: Sequence[SegmentCurvature | None],
        found: Sequence[tuple[Prepared, ScoreCheck]] = (),
        *,
        higher_is_better: bool,
    ) -> "MeanScorer":
        """Prepare the queries and return what scores training examples for them.

        Args:
            preparation: Of the queries.
            plan: Of its method.
            curvatures: EK-FAC of every segment; None where the method needs none.
            found: Of every member, where the queries are prepared: what was, and how far its scores
                are off.
            higher_is_better: Whether a higher measurement is; similarity takes its sign from it.
        """
        found = found or [
            settle(preparation.settings.tolerance, partial(preparation.checked, member, fitted))
            for member, fitted in plan.by_member(curvatures)
        ]
        engine = preparation.engine
        scorers: list[_Scorer] = []
        for (member, fitted), (one, check) in zip(plan.by_member(curvatures), found, strict=True):
            segments = [
                {name: response.multiplied_in(check.precision) for name, response in own.items()}
                for own in one.segments
            ]
            responses = SegmentResponses(member, segments, engine.like)
            if one.fixed is None:
                scorers.append(FrameScorer(engine, member, fitted, responses, check.precision))
            elif preparation.scoring == "projections":
                fit = TrakFit.of(engine, member, dimension=len(one.fixed), inverse=one.fixed)
                scorers.append(_TrakScorer(engine, member, fit, responses))
            else:
                sign = -1 if higher_is_better else 1
                scorers.append(_RepresentationScorer(engine, member, one.fixed, sign))
        return cls(
            scorers,
            plan.members[0].final,
            [solve for one, _ in found for solve in one.solves],
            [check for _, check in found if check.choices],
        )

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
        return scores.spread(torch.searchsorted(block.numbers, rows), len(block))

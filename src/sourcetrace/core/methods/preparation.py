"""What the queries are made into before training examples meet them, a member at a time.

The frame's methods propagate the queries' gradients through the segments, layer by layer; ASTRA
solves for all layers together, TRAK projects on what it fits, and representation similarity takes
the queries as the model sees them.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import torch
from torch import Tensor

from sourcetrace.core.curvature.blocks import SegmentCurvature
from sourcetrace.core.engine.gradient_engine import GradientEngine
from sourcetrace.core.methods.astra import Report, SegmentSolve, SolveSettings, astra_responses
from sourcetrace.core.methods.representations import representations
from sourcetrace.core.methods.trak import TrakFit
from sourcetrace.core.model.examples import Examples
from sourcetrace.core.model.precision import Precision
from sourcetrace.core.plan.methods import METHODS
from sourcetrace.core.plan.plan import EnsembleMember
from sourcetrace.core.responses.low_rank_responses import (
    LayerChoice,
    LayerResponse,
    low_rank_responses,
)
from sourcetrace.core.responses.queries import QueryGradients
from sourcetrace.core.responses.score_check import ScoreCheck, check_scores, checked_queries


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
class Prepared:
    """What scores training examples for a member's queries, beside gradients and curvature.

    Attributes:
        segments: What gradients meet, by layer.
        fixed: What else there is: TRAK's inverse moments, the queries' representations.
        choices: How the scores by a layer and segment are computed, where there is a choice.
        solves: How well ASTRA's systems were solved.
    """

    segments: Sequence[Mapping[str, LayerResponse]] = ()
    fixed: Tensor | None = None
    choices: tuple[LayerChoice, ...] = ()
    solves: Sequence[SegmentSolve] = ()


@dataclass(frozen=True)
class QueryPreparation:
    """Prepares queries; their gradients are taken once, and kept with it.

    Attributes:
        method: Name of the method.
        engine: The training gradients, of the layers whose responses are wanted.
        queries: The queries.
        settings: How exactly.
        report: Told of every iteration of ASTRA.
    """

    method: str
    engine: GradientEngine
    queries: Examples
    settings: ScoreSettings = field(default_factory=ScoreSettings)
    report: Report | None = None
    _gradients: dict[str, QueryGradients] = field(default_factory=dict, init=False)

    @property
    def scoring(self) -> str:
        """How queries become scores."""
        return METHODS[self.method].scoring

    def of(
        self,
        member: EnsembleMember,
        curvatures: Sequence[SegmentCurvature | None],
        *,
        aim: float,
        layers: Collection[str] | None = None,
    ) -> Prepared:
        """Prepare the queries for a member.

        Args:
            member: Segments and filters.
            curvatures: EK-FAC of each of its segments; None where the method needs none.
            aim: Relative error of the scores by low-rank sums; 0 takes the exact filters.
            layers: Of these alone, where the method has filters; None for all.
        """
        engine, settings = self.engine, self.settings
        if self.scoring == "representations":
            blocks = self.queries.blocks(engine.batch_size)
            rows = [representations(engine, self.queries, member.final, one) for one in blocks]
            return Prepared(fixed=torch.cat(rows))
        gradients = self._measured(member)
        if self.scoring == "filters":
            found = {
                name: low_rank_responses(
                    name,
                    gradient,
                    gradients.mean_loss[name],
                    member,
                    curvatures,
                    aim=aim,
                    checked=checked_queries(len(gradient)),
                )
                for name, gradient in gradients.measured.items()
                if layers is None or name in layers
            }
            return Prepared(
                [
                    {name: responses[place] for name, (responses, _) in found.items()}
                    for place in range(len(member.segments))
                ],
                choices=tuple(chain(*(choices for _, choices in found.values()))),
            )
        if self.scoring == "projections":
            fit = TrakFit.of(engine, member, dimension=settings.projection_dimension)
            return Prepared(_as_they_are(fit.responses(gradients.dense())), fit.inverse)
        solved, solves = astra_responses(
            engine,
            gradients.dense(),
            member,
            curvatures,
            settings=settings.solve,
            report=self.report,
        )
        return Prepared(_as_they_are(solved), solves=solves)

    def checked(
        self, member: EnsembleMember, curvatures: Sequence[SegmentCurvature | None], aim: float
    ) -> tuple[Prepared, ScoreCheck]:
        """Prepare the queries for all layers, and check the scores."""
        prepared = self.of(member, curvatures, aim=aim)
        return prepared, self.check(member, prepared)

    def check(self, member: EnsembleMember, prepared: Prepared) -> ScoreCheck:
        """Return how far a member's scores are from the exact filters', by all layers."""
        return check_scores(
            self.engine,
            member,
            prepared.segments,
            prepared.choices,
            tolerance=self.settings.tolerance,
            precision=self.settings.precision,
        )

    def _measured(self, member: EnsembleMember) -> QueryGradients:
        name = member.final.id
        if name not in self._gradients:
            self._gradients[name] = QueryGradients.of(self.engine, member, self.queries)
        return self._gradients[name]


def _as_they_are(segments: Sequence[Mapping[str, Tensor]]) -> list[dict[str, LayerResponse]]:
    return [{name: LayerResponse(one) for name, one in own.items()} for own in segments]

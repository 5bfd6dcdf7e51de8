"""The scorer of an audit's method for its queries, or for others."""

import logging
from collections.abc import Sequence

from sourcetrace.core.curvature.blocks import SegmentCurvature
from sourcetrace.core.engine.gradient_engine import GradientEngine
from sourcetrace.core.methods.astra import SolveSettings
from sourcetrace.core.methods.grouped import GroupedScorer
from sourcetrace.core.methods.scorers import MeanScorer, ScoreSettings
from sourcetrace.core.model.examples import Examples
from sourcetrace.pipelines.shared.set_up import AuditSetup

logger = logging.getLogger(__name__)


def scorer_of(
    setup: AuditSetup, curvature: Sequence[SegmentCurvature], queries: Examples
) -> GroupedScorer:
    """Return what scores training examples for some queries, by as many layers as memory holds.

    Args:
        setup: Of the audit.
        curvature: Of every segment, as it was stored; none where the method needs none.
        queries: The queries.
    """
    attribution, count = setup.attribution, len(setup.plan.segments)

    def prepare(engine: GradientEngine, fitted: Sequence[SegmentCurvature | None]) -> MeanScorer:
        return MeanScorer.of(
            attribution.method,
            engine,
            setup.plan,
            fitted,
            queries,
            higher_is_better=setup.inputs.task.measurement_higher_is_better,
            settings=ScoreSettings(
                solve=SolveSettings(**attribution.astra.model_dump()),
                projection_dimension=attribution.projection_dimension,
                tolerance=attribution.tolerance,
                precision=attribution.precision.scores,
            ),
            report=lambda segment, iteration, residual: logger.info(
                "ASTRA segment %d of %d, iteration %d, residual %.2g",
                segment,
                count,
                iteration,
                residual,
            ),
        )

    groups = setup.needs.scoring.groups
    return GroupedScorer(prepare, setup.engine, curvature or [None] * count, groups)

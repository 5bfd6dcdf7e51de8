"""The scorer of an audit's method for its queries, or for others."""

import logging
from collections.abc import Sequence

from sourcetrace.core.curvature.blocks import SegmentCurvature
from sourcetrace.core.engine.gradient_engine import GradientEngine
from sourcetrace.core.methods.astra import SolveSettings
from sourcetrace.core.methods.scorers import MeanScorer, ScoreSettings
from sourcetrace.core.model.examples import Examples
from sourcetrace.pipelines.shared.set_up import AuditSetup

logger = logging.getLogger(__name__)


def scorer_of(
    setup: AuditSetup,
    engine: GradientEngine,
    curvature: Sequence[SegmentCurvature | None],
    queries: Examples,
) -> MeanScorer:
    """Return what scores training examples for some queries.

    Args:
        setup: Of the audit.
        engine: The audit's, or that of some layers alone.
        curvature: Of its layers in every segment; None where the method needs none.
        queries: The queries.
    """
    attribution = setup.attribution
    count = len(setup.plan.segments)
    return MeanScorer.of(
        attribution.method,
        engine,
        setup.plan,
        curvature,
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

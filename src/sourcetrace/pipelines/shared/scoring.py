"""The scorer of an audit's method for its queries, or for others."""

import logging
from collections.abc import Sequence

from sourcetrace.core.curvature.blocks import SegmentCurvature
from sourcetrace.core.methods.astra import SolveSettings
from sourcetrace.core.methods.scorers import MeanScorer, ScoreSettings
from sourcetrace.core.model.examples import Examples
from sourcetrace.pipelines.shared.set_up import AuditSetup

logger = logging.getLogger(__name__)


def scorer_of(
    setup: AuditSetup, curvature: Sequence[SegmentCurvature], queries: Examples
) -> MeanScorer:
    """Return what scores training examples for some queries.

    Args:
        setup: Of the audit.
        curvature: Of every segment, as it was stored; none where the method needs none.
        queries: The queries.
    """
    attribution, engine = setup.attribution, setup.engine
    count = len(setup.plan.segments)
    fitted = [{name: block.to(engine.device) for name, block in one.items()} for one in curvature]
    return MeanScorer.of(
        attribution.method,
        engine,
        setup.plan,
        fitted or [None] * count,
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

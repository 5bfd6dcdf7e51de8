"""The scorer of an audit's method for its queries, or for others."""

import logging
from collections.abc import Sequence

from sourcetrace.core.curvature.blocks import SegmentCurvature
from sourcetrace.core.layers.layer import Layer
from sourcetrace.core.methods.astra import SolveSettings
from sourcetrace.core.methods.scorers import MeanScorer, ScoreSettings
from sourcetrace.core.model.examples import Examples
from sourcetrace.pipelines.shared.units import AuditSetup

logger = logging.getLogger(__name__)


def scorer_of(
    setup: AuditSetup,
    curvature: Sequence[SegmentCurvature],
    queries: Examples,
    layers: Sequence[Layer],
) -> MeanScorer:
    """Return what scores training examples for some queries by some layers.

    A score is a sum over layers: one of `setup.needs.scoring.groups` fits into memory at a time.

    Args:
        setup: Of the audit.
        curvature: Of every segment, as it was stored; none where the method needs none.
        queries: The queries.
        layers: A group of layers.
    """
    attribution, count = setup.attribution, len(setup.plan.segments)
    engine = setup.engine.of_layers(layers)
    fitted = [
        {layer.name: segment[layer.name].to(engine.device) for layer in layers}
        for segment in curvature
    ]
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

"""Fit every segment's curvature."""

import logging
from typing import TYPE_CHECKING, Any

import polars as pl

from sourcetrace.datasets.checkpoints import CheckpointFolder
from sourcetrace.datasets.gradient_cache import GradientCache
from sourcetrace.datasets.stage_result import StageResult
from sourcetrace.parameters import (
    AttributionParameters,
    EnsembleParameters,
    GradientParameters,
)
from sourcetrace.reporting.progress import track

if TYPE_CHECKING:
    from sourcetrace.tasks import Task
else:  # Kedro reads annotations; torch is imported when the node runs.
    Task = Any

logger = logging.getLogger(__name__)


def fit_curvature(
    task: Task,
    checkpoints: CheckpointFolder,
    checkpoint_manifest: pl.DataFrame,
    train_table: pl.DataFrame,
    query_table: pl.DataFrame,
    covariances: StageResult[dict[str, Any]],
    gradient_cache: GradientCache,
    gradients: GradientParameters,
    attribution: AttributionParameters,
    ensemble: EnsembleParameters,
) -> tuple[StageResult[list[Any]], dict[str, Any]]:
    """Return the curvature of every segment, none where the method needs none, and metrics."""
    from sourcetrace.core.attribution import fit_segment, visits
    from sourcetrace.core.curvature_scale import scale_curvature
    from sourcetrace.pipelines.audit_setup import preconditioners, set_up_audit

    setup = set_up_audit(
        task=task,
        checkpoints=checkpoints,
        checkpoint_manifest=checkpoint_manifest,
        train_table=train_table,
        query_table=query_table,
        gradient_cache=gradient_cache,
        gradients=gradients,
        attribution=attribution,
        ensemble=ensemble,
    )
    if not setup.plan.uses_curvature:
        return StageResult(setup.identity, []), {}
    sums = covariances.of(setup.identity, stage="gradient_extraction")
    segments = [
        fit_segment(
            setup.source,
            planned,
            sums,
            preconditioners=roots,
            progress=track(
                visits(setup.source, planned.points),
                f"Fitting segment {index} of {len(setup.plan.segments)}",
            ),
        )
        for index, (planned, roots) in enumerate(
            zip(
                setup.plan.segments,
                preconditioners(checkpoints, checkpoint_manifest, setup),
                strict=True,
            ),
            start=1,
        )
    ]
    if attribution.method != "scaled_source":
        return StageResult(setup.identity, segments), {}
    walked = scale_curvature(setup.source, setup.plan, segments, setup.queries)
    # A run's segments come once for every dropout mask, under the same number.
    scales: dict[int, list[float]] = {}
    for planned, (scale, _) in zip(setup.plan.segments, walked, strict=True):
        scales.setdefault(planned.segment.number, []).append(scale)
    metrics: dict[str, Any] = {}
    for number, found in scales.items():
        mean = sum(found) / len(found)
        logger.info(
            "Segment %d: along the queries' responses the curvature is %.2f times EK-FAC's",
            number,
            mean,
        )
        metrics[f"curvature_scale_segment_{number}"] = {"value": mean, "step": 0}
    return StageResult(setup.identity, [scaled for _, scaled in walked]), metrics

"""Fit every segment's curvature."""

import logging
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import polars as pl
from kedro.pipeline import Pipeline

from sourcetrace.core.curvature.blocks import SegmentCurvature
from sourcetrace.core.machine.memory import start_peak
from sourcetrace.core.methods.curvature_scale import scale_curvature
from sourcetrace.core.methods.fit import fit_segment
from sourcetrace.core.methods.precision_check import PrecisionError
from sourcetrace.core.model.precision import products_in
from sourcetrace.core.plan.methods import METHODS
from sourcetrace.core.statistics.spectrum import spectrum_quantiles
from sourcetrace.pipelines.shared.accounting import report_precision, report_work
from sourcetrace.pipelines.shared.set_up import SET_UP, AuditSetup
from sourcetrace.pipelines.shared.step import step
from sourcetrace.progress import track
from sourcetrace.schemas.comparison import CurvatureSpectra

logger = logging.getLogger(__name__)


def fit_curvature(
    audit_setup: AuditSetup, covariances: dict[str, Any]
) -> tuple[list[Any], pl.DataFrame, dict[str, Any]]:
    """Return the curvature of every segment, none where the method needs none.

    Returns:
        curvature, curvature_spectra and metrics.
    """
    setup = audit_setup
    engine, plan = setup.engine, setup.plan
    if not plan.uses_curvature:
        return [], _spectra([], []), {}
    start_peak(engine.device)
    precision = setup.attribution.precision.curvature
    segments: list[Any] = []
    scaled_ones: list[tuple[float, Any]] = []
    with engine.timings.timed("ekfac_fitting"):
        for planned, roots in zip(plan.segments, setup.preconditioners(), strict=True):
            found = engine.visits(planned.points)
            with products_in(precision, engine.device):
                segments.append(
                    fit_segment(
                        engine,
                        planned,
                        covariances,
                        preconditioners=roots,
                        progress=track(
                            found, f"Fitting segment {len(segments) + 1} of {len(plan.segments)}"
                        ),
                    )
                )
        if METHODS[setup.attribution.method].scales_curvature:
            scaled_ones = scale_curvature(engine, plan, segments, setup.queries)
    metrics = report_work(engine, "ekfac_fitting")
    if precision != "float32":
        error = PrecisionError.of_curvature(
            engine, plan.segments[-1], segments[-1], precision=precision
        )
        metrics |= report_precision(
            "examples' squares in the eigenbasis", "curvature", precision, error
        )
    numbers = [planned.segment.number for planned in plan.segments]
    if not scaled_ones:
        return segments, _spectra(numbers, segments), metrics
    # A run's segments come once for every dropout mask, under the same number.
    scales: dict[int, list[float]] = {}
    for planned, (scale, _) in zip(plan.segments, scaled_ones, strict=True):
        scales.setdefault(planned.segment.number, []).append(scale)
    for number, ones in scales.items():
        mean = sum(ones) / len(ones)
        logger.info(
            "Segment %d: along the queries' responses the curvature is %.2f times EK-FAC's",
            number,
            mean,
        )
        metrics[f"curvature_scale_segment_{number}"] = {"value": mean, "step": 0}
    segments = [scaled for _, scaled in scaled_ones]
    return segments, _spectra(numbers, segments), metrics


def _spectra(numbers: Sequence[int], segments: Sequence[SegmentCurvature]) -> pl.DataFrame:
    """Return every layer's spectrum, those under several dropout masks as their mean."""
    found: dict[tuple[int, str], list[Any]] = {}
    for number, segment in zip(numbers, segments, strict=True):
        for layer, block in segment.items():
            found.setdefault((number, layer), []).append(block.eigenvalues)
    return CurvatureSpectra.frame(
        {
            "segment": number,
            "layer": layer,
            "eigenvalues": ones[0].numel(),
            "trace": fmean(float(one.double().sum()) for one in ones),
            "quantiles": [
                fmean(level) for level in zip(*map(spectrum_quantiles, ones), strict=True)
            ],
        }
        for (number, layer), ones in found.items()
    )


PIPELINE = Pipeline(
    [*SET_UP, step(fit_curvature, ["curvature", "curvature_spectra", "curvature_metrics"])]
)

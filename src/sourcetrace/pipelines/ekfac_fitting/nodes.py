"""Fit every segment's curvature."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import polars as pl
from kedro.pipeline import Pipeline
from torch import Tensor

from sourcetrace.core.machine.memory import start_peak
from sourcetrace.core.methods.precision_check import PrecisionError
from sourcetrace.core.methods.trial_responses import LARGEST
from sourcetrace.core.statistics.spectrum import spectrum_quantiles
from sourcetrace.pipelines.ekfac_fitting.work import fit
from sourcetrace.pipelines.gradient_extraction.work import extracted
from sourcetrace.pipelines.set_up.audit_setup import AuditSetup
from sourcetrace.pipelines.set_up.nodes import SET_UP
from sourcetrace.pipelines.shared.accounting import report_precision, report_work
from sourcetrace.pipelines.shared.metrics import logged
from sourcetrace.pipelines.shared.step import step
from sourcetrace.schemas.comparison import CurvatureSpectra

logger = logging.getLogger(__name__)


def fit_curvature(
    audit_setup: AuditSetup, query_signals: object
) -> tuple[Sequence[Any], pl.DataFrame, dict[str, Any]]:
    """Return the curvature of every segment, none where the method needs none.

    Returns:
        curvature, curvature_spectra and metrics.
    """
    del query_signals  # so that it runs behind the extraction, whose units it reads
    engine = audit_setup.engine
    if not audit_setup.plan.uses_curvature:
        return [], CurvatureSpectra.frame(), {}
    start_peak(engine.device)
    with engine.timings.timed("ekfac_fitting"):
        fitted = fit(audit_setup)
    plan = audit_setup.plan  # without what fitting has set aside
    metrics = report_work(engine, "ekfac_fitting")
    precision = audit_setup.attribution.precision.curvature
    if precision != "float32":
        error = PrecisionError.of_curvature(
            engine, plan.segments[-1], fitted.unscaled[-1], precision=precision
        )
        metrics |= report_precision(
            "examples' squares in the eigenbasis", "curvature", precision, error
        )
    numbers = [planned.segment.number for planned in plan.segments]
    for number, own in zip(numbers, fitted.scales, strict=bool(fitted.scales)):
        responding = [factor for factor in own.values() if factor < LARGEST]
        middle = median(responding or own.values())
        logger.debug(
            "Segment %d: EK-FAC's curvature is scaled by %.2f in the median of %d of %d layers",
            number,
            middle,
            len(responding),
            len(own),
        )
        metrics |= logged({f"curvature_scale_segment_{number}": middle})
    spectra = CurvatureSpectra.frame(
        _spectrum(number, layer, block.eigenvalues)
        for number, blocks in zip(numbers, fitted.curvature, strict=True)
        for layer, block in blocks.items()
    )
    return fitted.curvature, spectra, metrics


def describe_curvature(
    audit_setup: AuditSetup, example_signals: pl.LazyFrame, curvature_spectra: object
) -> dict[str, Any]:
    """Return of which data the curvature is, and how far they have moved since.

    Empty where it is that of the examples audited.
    """
    del curvature_spectra  # so that it runs behind the fitting
    if audit_setup.curvature is audit_setup or audit_setup.kept.earlier is None:
        return {}
    found = extracted(audit_setup)
    then = replace(found, rows={name: units[0] for name, units in found.sums.items()})
    return audit_setup.kept.earlier.moved(then.signals, example_signals.lazy())


def _spectrum(segment: int, layer: str, eigenvalues: Tensor) -> dict[str, Any]:
    return {
        "segment": segment,
        "layer": layer,
        "eigenvalues": eigenvalues.numel(),
        "trace": float(eigenvalues.double().sum()),
        "quantiles": spectrum_quantiles(eigenvalues),
    }


PIPELINE = Pipeline(
    [
        *SET_UP,
        step(fit_curvature, ["curvature", "curvature_spectra", "curvature_metrics"]),
        step(describe_curvature, "kept_curvature"),
    ]
)

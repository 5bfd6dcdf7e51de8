"""Fit every segment's curvature."""

import logging
from collections.abc import Sequence
from statistics import median
from typing import Any

import polars as pl
from kedro.pipeline import Pipeline
from torch import Tensor

from sourcetrace.core.curvature.blocks import CurvatureBlock
from sourcetrace.core.machine.memory import start_peak
from sourcetrace.core.methods.curvature_scale import LARGEST, curvature_scales
from sourcetrace.core.methods.fit import fit_segment
from sourcetrace.core.methods.precision_check import PrecisionError
from sourcetrace.core.model.precision import products_in
from sourcetrace.core.plan.methods import METHODS
from sourcetrace.core.statistics.spectrum import spectrum_quantiles
from sourcetrace.pipelines.shared.accounting import report_precision, report_work
from sourcetrace.pipelines.shared.metrics import logged
from sourcetrace.pipelines.shared.set_up import SET_UP, AuditSetup
from sourcetrace.pipelines.shared.step import step
from sourcetrace.progress import track
from sourcetrace.schemas.comparison import CurvatureSpectra

logger = logging.getLogger(__name__)


def fit_curvature(
    audit_setup: AuditSetup, covariances: dict[str, Any]
) -> tuple[Sequence[Any], pl.DataFrame, dict[str, Any]]:
    """Return the curvature of every segment, none where the method needs none.

    Returns:
        curvature, curvature_spectra and metrics.
    """
    setup = audit_setup
    engine, plan = setup.engine, setup.plan
    if not plan.uses_curvature:
        return [], CurvatureSpectra.frame(), {}
    groups = setup.needs.fitting.groups
    fitted = [setup.layers_of(CurvatureBlock, setup.needs.fitting) for _ in plan.segments]
    start_peak(engine.device)
    precision = setup.attribution.precision.curvature
    scales: list[dict[str, float]] = []
    with engine.timings.timed("ekfac_fitting"):
        for group in groups:
            part, preconditioners = engine.of_layers(group), setup.preconditioners(group)
            for number, planned in enumerate(plan.segments):
                found = engine.visits(planned.points)
                with products_in(precision, engine.device):
                    fitted[number].update(
                        fit_segment(
                            part,
                            planned,
                            covariances,
                            preconditioners=next(preconditioners),
                            progress=track(found, f"Fitting segment {number + 1} of {len(fitted)}"),
                        )
                    )
        if METHODS[setup.attribution.method].scales_curvature:
            scales = curvature_scales(engine, plan, fitted, setup.queries, groups)
    metrics = report_work(engine, "ekfac_fitting")
    if precision != "float32":
        error = PrecisionError.of_curvature(
            engine, plan.segments[-1], fitted[-1], precision=precision
        )
        metrics |= report_precision(
            "examples' squares in the eigenbasis", "curvature", precision, error
        )
    numbers = [planned.segment.number for planned in plan.segments]
    if scales:
        for number, blocks, own in zip(numbers, fitted, scales, strict=True):
            for name, factor in own.items():
                blocks[name] = blocks[name].scaled(factor)
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
        for number, blocks in zip(numbers, fitted, strict=True)
        for layer, block in blocks.items()
    )
    return fitted, spectra, metrics


def _spectrum(segment: int, layer: str, eigenvalues: Tensor) -> dict[str, Any]:
    return {
        "segment": segment,
        "layer": layer,
        "eigenvalues": eigenvalues.numel(),
        "trace": float(eigenvalues.double().sum()),
        "quantiles": spectrum_quantiles(eigenvalues),
    }


PIPELINE = Pipeline(
    [*SET_UP, step(fit_curvature, ["curvature", "curvature_spectra", "curvature_metrics"])]
)

"""How far scores and curvature moved since the audit before."""

import math
from collections.abc import Mapping, Sequence
from typing import Final

import polars as pl

from sourcetrace.audit.comparison.summary import ClassDrift, CurvatureDrift, LayerDrift, ScoreDrift

FEWEST: Final = 3
"""Examples whose order can be compared at all."""

_DIGITS: Final = 6
_NEGLIGIBLE: Final = 1e-6
"""Eigenvalues below this share of the layer's largest count as this share: they are noise."""


def score_drift(comparison: pl.DataFrame, *, class_minimum: int) -> ScoreDrift:
    """Return the rank correlation of harm before and now over the unchanged examples.

    A corrected label is meant to move its example; the others say how far scores repeat.

    Args:
        comparison: `schemas.AuditComparison`.
        class_minimum: Examples that a label needs to have a correlation of its own.
    """
    unchanged = comparison.filter(change="unchanged")
    classes = []
    for (label,), rows in unchanged.drop_nulls("label").group_by("label"):
        correlation = rank_correlation(rows) if rows.height >= class_minimum else None
        if correlation is not None:
            classes.append(ClassDrift(str(label), rows.height, correlation))
    return ScoreDrift(
        examples=unchanged.height,
        rank_correlation=rank_correlation(unchanged),
        classes=tuple(sorted(classes, key=lambda one: (one.rank_correlation, one.label))),
    )


def rank_correlation(rows: pl.DataFrame) -> float | None:
    """Return Spearman's correlation of `harm_before` and `harm`; None where there is no order."""
    if rows.height < FEWEST:
        return None
    value = rows.select(pl.corr("harm_before", "harm", method="spearman")).item()
    # Threads may add in any order; the digits beyond these would differ from run to run.
    return None if value is None or math.isnan(value) else round(float(value), _DIGITS)


def curvature_drift(now: pl.DataFrame, before: pl.DataFrame) -> CurvatureDrift:
    """Return how far every layer's spectrum moved, the farthest first.

    Layers are matched by segment and name; where training was cut into other segments, those of
    the last segments are.

    Args:
        now: `schemas.CurvatureSpectra`; empty where the method has no curvature.
        before: The same of the audit before.
    """
    if now.is_empty() or before.is_empty():
        return CurvatureDrift(layers=(), segments_before=0, segments=0)
    counts = before["segment"].n_unique(), now["segment"].n_unique()
    if counts[0] != counts[1]:
        now, before = (
            side.filter(pl.col("segment") == pl.col("segment").max()) for side in (now, before)
        )
        before = before.with_columns(pl.lit(now["segment"][0]).alias("segment"))
    both = now.join(before, on=["segment", "layer", "eigenvalues"], how="inner", suffix="_before")
    layers = [
        LayerDrift(
            segment=row["segment"],
            layer=row["layer"],
            trace_ratio=_ratio(row),
            distance=spectrum_distance(row["quantiles"], row["quantiles_before"]),
        )
        for row in both.iter_rows(named=True)
    ]
    return CurvatureDrift(
        layers=tuple(sorted(layers, key=lambda one: (-one.distance, one.segment, one.layer))),
        segments_before=counts[0],
        segments=counts[1],
    )


def spectrum_distance(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the mean distance of two spectra's quantiles in powers of ten; 0.3 is a factor of 2.

        mean over quantiles of |log₁₀ max(q, f) − log₁₀ max(q', f)|,
        f the negligible share of the largest

    Args:
        one: Quantiles at the same levels, the largest eigenvalue last.
        other: The same of the other spectrum.
    """
    floor = _NEGLIGIBLE * max(one[-1], other[-1])
    if not floor > 0:
        return 0.0
    steps = [
        abs(math.log10(max(a, floor) / max(b, floor))) for a, b in zip(one, other, strict=True)
    ]
    return round(sum(steps) / len(steps), _DIGITS)


def _ratio(row: Mapping[str, float]) -> float | None:
    positive = row["trace"] > 0 and row["trace_before"] > 0
    return round(row["trace"] / row["trace_before"], _DIGITS) if positive else None

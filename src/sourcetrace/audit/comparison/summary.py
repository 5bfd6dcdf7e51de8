"""What a comparison of two audits says, as values that JSON has."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Self

import polars as pl

from sourcetrace.validation import JsonRecord

_FACTOR: Final = 2.0
"""A spectrum that changed by more than this is named."""

_BIG_DISTANCE: Final = 0.3
"""The same, in powers of ten."""

_FEWEST: Final = 3
"""Examples whose order can be compared at all."""

_DIGITS: Final = 6
_NEGLIGIBLE: Final = 1e-6
"""Eigenvalues below this share of the layer's largest count as this share: they are noise."""


@dataclass(frozen=True)
class ClassDrift:
    """How far the order of one label's examples by harm stayed."""

    label: str
    examples: int
    rank_correlation: float


@dataclass(frozen=True)
class ScoreDrift:
    """How far the order of the examples by harm stayed.

    Attributes:
        examples: That both audits have, with the same content and label.
        rank_correlation: Spearman's, of their harm; None where there is no order to compare.
        classes: Of the labels with enough of these examples, the lowest first.
    """

    examples: int = 0
    rank_correlation: float | None = None
    classes: tuple[ClassDrift, ...] = ()

    @classmethod
    def of(cls, comparison: pl.DataFrame, *, class_minimum: int) -> Self:
        """Return the rank correlation of harm before and now over the unchanged examples.

        A corrected label is meant to move its example; the others say how far scores repeat.

        Args:
            comparison: `schemas.AuditComparison`.
            class_minimum: Examples that a label needs to have a correlation of its own.
        """
        unchanged = comparison.filter(change="unchanged")
        classes = []
        for (label,), rows in unchanged.drop_nulls("label").group_by("label"):
            correlation = _rank_correlation(rows) if rows.height >= class_minimum else None
            if correlation is not None:
                classes.append(ClassDrift(str(label), rows.height, correlation))
        return cls(
            examples=unchanged.height,
            rank_correlation=_rank_correlation(unchanged),
            classes=tuple(sorted(classes, key=lambda one: (one.rank_correlation, one.label))),
        )


@dataclass(frozen=True)
class LayerDrift:
    """How far one layer's spectrum moved in one segment.

    Attributes:
        trace_ratio: Sum of its eigenvalues now, over the sum before.
        distance: See `_spectrum_distance`.
    """

    segment: int
    layer: str
    trace_ratio: float | None
    distance: float

    @property
    def is_big(self) -> bool:
        """Whether it is worth naming."""
        ratio = self.trace_ratio
        changed = ratio is not None and not 1 / _FACTOR < ratio < _FACTOR
        return changed or self.distance >= _BIG_DISTANCE


@dataclass(frozen=True)
class CurvatureDrift:
    """How far the curvature's spectra moved.

    Attributes:
        layers: Those in both audits, the farthest first; none where a method has no curvature.
        segments_before, segments: Segments of training; where they differ, the last is compared.
    """

    layers: tuple[LayerDrift, ...] = ()
    segments_before: int = 0
    segments: int = 0

    @classmethod
    def of(cls, now: pl.DataFrame, before: pl.DataFrame) -> Self:
        """Return how far every layer's spectrum moved, the farthest first.

        Layers are matched by segment and name; where training was cut into other segments, those of
        the last segments are.

        Args:
            now: `schemas.CurvatureSpectra`; empty where the method has no curvature.
            before: The same of the audit before.
        """
        if now.is_empty() or before.is_empty():
            return cls(layers=(), segments_before=0, segments=0)
        counts = before["segment"].n_unique(), now["segment"].n_unique()
        if counts[0] != counts[1]:
            now, before = (
                side.filter(pl.col("segment") == pl.col("segment").max()) for side in (now, before)
            )
            before = before.with_columns(pl.lit(now["segment"][0]).alias("segment"))
        both = now.join(
            before, on=["segment", "layer", "eigenvalues"], how="inner", suffix="_before"
        )
        layers = [
            LayerDrift(
                segment=row["segment"],
                layer=row["layer"],
                trace_ratio=_ratio(row),
                distance=_spectrum_distance(row["quantiles"], row["quantiles_before"]),
            )
            for row in both.iter_rows(named=True)
        ]
        return cls(
            layers=tuple(sorted(layers, key=lambda one: (-one.distance, one.segment, one.layer))),
            segments_before=counts[0],
            segments=counts[1],
        )


@dataclass(frozen=True)
class DataDrift:
    """What was done to the data in between.

    Attributes:
        matched_by: `id` where the contents of one audit's examples are not known.
        training_same, queries_same: Whether the digests are equal; None where they cannot be
            compared.
        added, removed, relabelled, edited: Examples, each counted once.
        renamed: Of the same content, but another id.
        reordered: Of the same content, but at another place among these.
    """

    matched_by: Literal["content", "id"] = "content"
    training_same: bool | None = None
    queries_same: bool | None = None
    added: int = 0
    removed: int = 0
    relabelled: int = 0
    edited: int = 0
    renamed: int = 0
    reordered: int = 0


@dataclass(frozen=True)
class SuspectDrift:
    """What became of the suspects.

    Attributes:
        new, persisting: Suspects only now; before and now.
        resolved: Suspects of before that somebody decided to keep, or changed.
        dropped_out: Suspects of before that are none now, though nothing was done: others may
            only have crowded them out.
        new_by, resolved_by: Of new and resolved ones, how many by what was done to them
            (`schemas.CHANGES`), or that were decided to be kept (`kept`).
    """

    new: int = 0
    persisting: int = 0
    resolved: int = 0
    dropped_out: int = 0
    new_by: dict[str, int] = field(default_factory=dict)
    resolved_by: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class AuditPoint:
    """An audit in the trends.

    Attributes:
        at: When it ended, UTC, ISO 8601; empty of the one that is being written.
        outcome: Of its gate.
        training_examples: How many.
        suspect_share: Share of them with a suggested action.
        harmful_share, mean_query_loss, trust_lds: As the gate measures them.
        new, persisting, resolved: As `SuspectDrift`; None of a first audit.
        rank_correlation: As `ScoreDrift`.
    """

    at: str
    outcome: str
    training_examples: int
    suspect_share: float
    harmful_share: float | None
    mean_query_loss: float | None
    trust_lds: float | None
    new: int | None = None
    persisting: int | None = None
    resolved: int | None = None
    rank_correlation: float | None = None


@dataclass(frozen=True)
class Comparison(JsonRecord):
    """An audit beside the one before it.

    Attributes:
        scores_digest: Of this audit's scores.
        method: Of this audit.
        training_examples: Of this audit.
        suspects_now: Of this audit.
        previous_at: When the audit before ended; None in a first audit, where nothing below says
            anything.
        previous_scores_digest, previous_method: Of that audit.
        suspects, scores, curvature, data: What changed.
        earlier: The audits before this one, oldest first.
    """

    scores_digest: str
    method: str
    training_examples: int
    suspects_now: int
    previous_at: str | None = None
    previous_scores_digest: str | None = None
    previous_method: str | None = None
    suspects: SuspectDrift = SuspectDrift()
    scores: ScoreDrift = ScoreDrift()
    curvature: CurvatureDrift = CurvatureDrift()
    data: DataDrift = DataDrift()
    earlier: tuple[AuditPoint, ...] = ()

    def point(self, outcome: str, metrics: Mapping[Any, float | None]) -> AuditPoint:
        """Return the place of this audit in the trends.

        Args:
            outcome: Of its gate.
            metrics: What the gate measured, by name.
        """
        first = self.previous_at is None
        return AuditPoint(
            at="",
            outcome=outcome,
            training_examples=self.training_examples,
            suspect_share=self.suspects_now / self.training_examples,
            harmful_share=metrics.get("harmful_share"),
            mean_query_loss=metrics.get("mean_query_loss"),
            trust_lds=metrics.get("trust_lds"),
            new=None if first else self.suspects.new,
            persisting=None if first else self.suspects.persisting,
            resolved=None if first else self.suspects.resolved,
            rank_correlation=self.scores.rank_correlation,
        )


def _spectrum_distance(one: Sequence[float], other: Sequence[float]) -> float:
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


def _rank_correlation(rows: pl.DataFrame) -> float | None:
    """Return Spearman's correlation of `harm_before` and `harm`; None where there is no order."""
    if rows.height < _FEWEST:
        return None
    value = rows.select(pl.corr("harm_before", "harm", method="spearman")).item()
    # Threads may add in any order; the digits beyond these would differ from run to run.
    return None if value is None or math.isnan(value) else round(float(value), _DIGITS)


def _ratio(row: Mapping[str, float]) -> float | None:
    positive = row["trace"] > 0 and row["trace_before"] > 0
    return round(row["trace"] / row["trace_before"], _DIGITS) if positive else None

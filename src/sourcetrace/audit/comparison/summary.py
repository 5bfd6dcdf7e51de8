"""What a comparison of two audits says, as values that JSON has."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

from pydantic import TypeAdapter

FACTOR = 2.0
"""A spectrum that changed by more than this is named."""

BIG_DISTANCE = 0.3
"""The same, in powers of ten."""


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


@dataclass(frozen=True)
class LayerDrift:
    """How far one layer's spectrum moved in one segment.

    Attributes:
        trace_ratio: Sum of its eigenvalues now, over the sum before.
        distance: See `drift.spectrum_distance`.
    """

    segment: int
    layer: str
    trace_ratio: float | None
    distance: float

    @property
    def is_big(self) -> bool:
        """Whether it is worth naming."""
        ratio = self.trace_ratio
        changed = ratio is not None and not 1 / FACTOR < ratio < FACTOR
        return changed or self.distance >= BIG_DISTANCE


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
        new, persisting, resolved: Suspects only now, before and now, only before.
        new_by, resolved_by: Of these, how many by what was done to them (`schemas.CHANGES`).
    """

    new: int = 0
    persisting: int = 0
    resolved: int = 0
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
class Comparison:
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

    def to_json(self) -> dict[str, Any]:
        """Return values that JSON has."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """Rebuild what `to_json` returned."""
        return TypeAdapter(cls).validate_python(content)

"""Tables by which an audit is compared with the one before it."""

import pandera.polars as pa
import polars as pl

from sourcetrace.schemas.decisions import DECISIONS
from sourcetrace.schemas.table import Table

STATUSES = ("new", "persisting", "resolved", "dropped_out", "unsuspected")
"""Of suspects: only now; before and now; only before, something having been done about it; only
before, though nothing was done; never."""

CHANGES = ("unchanged", "relabelled", "edited", "added", "removed")
"""What was done to an example in between."""


class ExampleDigests(Table):
    """One row a training example, in their order.

    Attributes:
        label: As in the training table.
        input_digest: Of what the model is given, without the label; empty where examples differ
            from one reading to the next, or are of a type whose bytes are not known.
        target_digest: Of the label in the example itself; empty where it cannot be told apart.
    """

    example_id: str = pa.Field(unique=True)
    label: str | None = pa.Field(nullable=True)
    input_digest: str | None = pa.Field(nullable=True, str_matches="^[0-9a-f]{32}$")
    target_digest: str | None = pa.Field(nullable=True, str_matches="^[0-9a-f]{32}$")


class CurvatureSpectra(Table):
    """One row a segment and layer.

    Attributes:
        eigenvalues: How many, of one matrix.
        trace: Their sum.
        quantiles: At `core.spectrum.LEVELS`.
    """

    segment: int = pa.Field(ge=1)
    layer: str
    eigenvalues: int = pa.Field(ge=1)
    trace: float
    quantiles: pl.List = pa.Field(dtype_kwargs={"inner": pl.Float64()})

    class Config:
        """One row a pair."""

        unique = ("segment", "layer")


class AuditComparison(Table):
    """One row an example of this audit or of the one before; none in a first audit.

    Attributes:
        example_id: Its id now; where it was removed, its id before.
        id_before: Its id before; empty where it was added.
        status: One of `STATUSES`.
        change: One of `CHANGES`.
        decision: What somebody decided about it; one of `DECISIONS`.
        same_content: Whether both audits read the same inputs; false where only the id agrees,
            and where it was added or removed.
        label_before, label: Given labels.
        rank_before, rank: In the review lists.
        harm_before, harm: Of the same.
        audits_suspected: In how many audits in a row it was a suspect, this one included; of a
            resolved one, up to the one before.
    """

    example_id: str
    id_before: str | None = pa.Field(nullable=True)
    status: str = pa.Field(isin=STATUSES)
    change: str = pa.Field(isin=CHANGES)
    decision: str | None = pa.Field(nullable=True, isin=DECISIONS)
    same_content: bool
    label_before: str | None = pa.Field(nullable=True)
    label: str | None = pa.Field(nullable=True)
    rank_before: int | None = pa.Field(nullable=True, ge=1)
    rank: int | None = pa.Field(nullable=True, ge=1)
    harm_before: float | None = pa.Field(nullable=True)
    harm: float | None = pa.Field(nullable=True)
    audits_suspected: int = pa.Field(ge=0)

"""Tables of the verification: what is trained again, how it came out, what that says."""

import pandera.polars as pa
import polars as pl

from sourcetrace.schemas.table import Table

KINDS = ("all", "subset", "helpers", "random")


class VerificationPlan(Table):
    """One row a set of training examples to train on.

    Attributes:
        group: Its name.
        kind: All examples, a random subset, all but a query's helpers, or all but as many
            random ones of the same classes.
        query: Number of the query whose helpers are meant.
        removed: Numbers of the training examples left out, increasing.
        scores_digest: Of the scores that named the helpers.
    """

    group: str = pa.Field(unique=True)
    kind: str = pa.Field(isin=KINDS)
    query: int | None = pa.Field(nullable=True, ge=0)
    removed: pl.List = pa.Field(dtype_kwargs={"inner": pl.Int32()})
    scores_digest: str


class VerificationOutcomes(Table):
    """One row a retraining; the lists have one value a query, in their order."""

    group: str
    seed: int = pa.Field(ge=0)
    seconds: float = pa.Field(ge=0)
    measurements: pl.List = pa.Field(dtype_kwargs={"inner": pl.Float64()})
    predicted_labels: pl.List | None = pa.Field(nullable=True, dtype_kwargs={"inner": pl.String()})
    losses: pl.List | None = pa.Field(nullable=True, dtype_kwargs={"inner": pl.Float64()})

    class Config:
        """One row a pair."""

        unique = ("group", "seed")


class VerificationQueries(Table):
    """One row a query: its rank correlation of predicted and retrained outcomes."""

    query_id: str = pa.Field(unique=True)
    lds: float = pa.Field(ge=-1, le=1)


class VerificationRemovals(Table):
    """One row a removal.

    Attributes:
        kind: A query's helpers, or random examples.
        query_id: The query that is measured.
        removed: Examples removed.
        predicted_change: Sum of their scores for the query.
        measured_change: Of its measurement, against training on all examples; mean over seeds.
        flipped_share: Share of the seeds whose prediction for the query changed.
    """

    kind: str = pa.Field(isin=("helpers", "random"))
    query_id: str
    removed: int = pa.Field(ge=1)
    predicted_change: float
    measured_change: float
    flipped_share: float | None = pa.Field(nullable=True, ge=0, le=1)


class VerificationSummary(Table):
    """One row a measure.

    Attributes:
        measure: Its name.
        removed: Examples removed, where the measure is of removals of one size.
        value: NaN-free; empty where it could not be measured.
        low: End of the 95 % interval, where there is one.
        high: The other end.
        detail: What it is, in plain words.
        method: The attribution method of the scores.
        scores_digest: Of the scores that were verified.
    """

    measure: str
    removed: int | None = pa.Field(nullable=True, ge=1)
    value: float | None = pa.Field(nullable=True)
    low: float | None = pa.Field(nullable=True)
    high: float | None = pa.Field(nullable=True)
    detail: str
    method: str
    scores_digest: str

    class Config:
        """One row a pair."""

        unique = ("measure", "removed")

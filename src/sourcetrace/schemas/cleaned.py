"""The manifest of cleaned data, which any training can read, and what is trained to test it."""

import pandera.polars as pa
import polars as pl

from sourcetrace.schemas.decisions import DECISIONS
from sourcetrace.schemas.table import Table


class CleanedData(Table):
    """One row a training example, in the order of the training table.

    Behind them come examples that were removed before this audit, so that rounds add up.

    Attributes:
        index: Its row in train_table() and its number in train_examples(), from 0; empty where
            the audit no longer has it.
        label: The one to train with.
        keep: Whether to train on it.
        decision: The latest about it; one of `DECISIONS`.
    """

    example_id: str = pa.Field(unique=True)
    index: int | None = pa.Field(nullable=True, ge=0)
    label: str | None = pa.Field(nullable=True)
    keep: bool
    decision: str | None = pa.Field(nullable=True, isin=DECISIONS)


class CleaningPlan(Table):
    """One row a set of training examples and labels to train with.

    Attributes:
        group: Its name.
        kind: All examples as they are, cleaned, or with as many changes at random.
        removed: Numbers of the examples left out, increasing.
        relabelled: Numbers of the examples with another label.
        new_labels: Their labels.
        scores_digest: Of the audit.
    """

    group: str = pa.Field(unique=True)
    kind: str = pa.Field(isin=("all", "cleaned", "random"))
    removed: pl.List = pa.Field(dtype_kwargs={"inner": pl.Int32()})
    relabelled: pl.List = pa.Field(dtype_kwargs={"inner": pl.Int32()})
    new_labels: pl.List = pa.Field(dtype_kwargs={"inner": pl.String()})
    scores_digest: str

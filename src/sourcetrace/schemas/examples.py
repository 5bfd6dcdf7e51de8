"""The tables a task gives of its examples; a user may add columns."""

import pandera.polars as pa
import polars as pl


class TrainTable(pa.DataFrameModel):
    """One row a training example, in the order of `train_examples`.

    Attributes:
        stage: The stages of training it belongs to, at least one, in the order of training.
    """

    example_id: str = pa.Field(unique=True)
    label: str | None = pa.Field(nullable=True)
    stage: pl.List = pa.Field(dtype_kwargs={"inner": pl.String()})


class QueryTable(pa.DataFrameModel):
    """One row a query, in the order of `query_examples`."""

    example_id: str = pa.Field(unique=True)
    label: str | None = pa.Field(nullable=True)


def label_text(labels: pl.Series) -> pl.Series:
    """Write labels as the model's are written: a class 1.0 or True is "1"."""
    whole = labels.dtype.is_float() and bool((labels.drop_nulls() % 1 == 0).all())
    if whole or labels.dtype == pl.Boolean:
        labels = labels.cast(pl.Int64)
    return labels.cast(pl.String)

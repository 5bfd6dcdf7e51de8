"""The tables a task gives of its examples; a user may add columns."""

import pandera.polars as pa


class TrainTable(pa.DataFrameModel):
    """One row a training example, in the order of `train_examples`."""

    example_id: str = pa.Field(unique=True)
    label: str | None = pa.Field(nullable=True)
    stage: str


class QueryTable(pa.DataFrameModel):
    """One row a query, in the order of `query_examples`."""

    example_id: str = pa.Field(unique=True)
    label: str | None = pa.Field(nullable=True)

"""The tables a task gives of its examples, where a user may add columns, and the demo's."""

import pandera.polars as pa
import polars as pl

from sourcetrace.schemas.table import Table


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


class DigitsTrainingSet(Table):
    """One row a training scan, with the label it was given, planted errors included."""

    example_id: str = pa.Field(unique=True)
    pixels: pl.Array = pa.Field(dtype_kwargs={"inner": pl.Float32(), "shape": 64})
    label: int = pa.Field(ge=0, le=9)


class PlantedLabelErrors(Table):
    """One row a training scan whose label was exchanged."""

    example_id: str = pa.Field(unique=True)
    true_label: int = pa.Field(ge=0, le=9)
    planted_label: int = pa.Field(ge=0, le=9)


def label_text(labels: pl.Series) -> pl.Series:
    """Write labels as the model's are written: a class 1.0 or True is "1"."""
    whole = labels.dtype.is_float() and bool((labels.drop_nulls() % 1 == 0).all())
    if whole or labels.dtype == pl.Boolean:
        labels = labels.cast(pl.Int64)
    return labels.cast(pl.String)

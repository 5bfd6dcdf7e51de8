"""What single examples look like to the model at a checkpoint."""

import pandera.polars as pa


class ExampleSignals(pa.DataFrameModel):
    """One row a training example and evaluation point."""

    example_id: str
    checkpoint_id: str
    loss: float
    measurement: float
    predicted_label: str | None = pa.Field(nullable=True)
    given_label_probability: float | None = pa.Field(nullable=True, ge=0, le=1)
    gradient_norm: float = pa.Field(ge=0)

    class Config:
        """No other columns, none missing; one row a pair."""

        strict = True
        unique = ("example_id", "checkpoint_id")


class QuerySignals(pa.DataFrameModel):
    """One row a query, at the final checkpoint."""

    example_id: str = pa.Field(unique=True)
    loss: float
    measurement: float
    predicted_label: str | None = pa.Field(nullable=True)
    given_label_probability: float | None = pa.Field(nullable=True, ge=0, le=1)

    class Config:
        """No other columns, none missing."""

        strict = True

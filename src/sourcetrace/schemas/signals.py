"""What single examples look like to the model at a checkpoint."""

import pandera.polars as pa

from sourcetrace.schemas.table import Table


class ExampleSignals(Table):
    """One row a training example and evaluation point."""

    example_id: str
    checkpoint_id: str
    loss: float
    measurement: float
    predicted_label: str | None = pa.Field(nullable=True)
    given_label_probability: float | None = pa.Field(nullable=True, ge=0, le=1)
    gradient_norm: float = pa.Field(ge=0)

    class Config:
        """One row a pair."""

        unique = ("example_id", "checkpoint_id")


class QuerySignals(Table):
    """One row a query, at the final checkpoint."""

    example_id: str = pa.Field(unique=True)
    loss: float
    measurement: float
    predicted_label: str | None = pa.Field(nullable=True)
    given_label_probability: float | None = pa.Field(nullable=True, ge=0, le=1)

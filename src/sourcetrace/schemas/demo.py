"""Tables of the demo's training; the audit reads the first and never the second."""

import pandera.polars as pa
import polars as pl

from sourcetrace.schemas.table import Table


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

"""Tables of the demo's training; the audit reads the first and never the second."""

import pandera.polars as pa
import polars as pl


class DigitsTrainingSet(pa.DataFrameModel):
    """One row a training scan, with the label it was given, planted errors included."""

    example_id: str = pa.Field(unique=True)
    pixels: pl.Array = pa.Field(dtype_kwargs={"inner": pl.Float32(), "shape": 64})
    label: int = pa.Field(ge=0, le=9)

    class Config:
        """No other columns, none missing."""

        strict = True


class PlantedLabelErrors(pa.DataFrameModel):
    """One row a training scan whose label was exchanged."""

    example_id: str = pa.Field(unique=True)
    true_label: int = pa.Field(ge=0, le=9)
    planted_label: int = pa.Field(ge=0, le=9)

    class Config:
        """No other columns, none missing."""

        strict = True


class DemoRankings(pa.DataFrameModel):
    """One row a ranking: how many planted errors it puts first."""

    ranking: str = pa.Field(unique=True)
    found_in_top: int = pa.Field(ge=0)
    recall_in_top: float = pa.Field(ge=0, le=1)
    average_precision: float = pa.Field(ge=0, le=1)

    class Config:
        """No other columns, none missing."""

        strict = True


class DemoRecallCurve(pa.DataFrameModel):
    """Planted errors found against examples inspected, for every ranking."""

    ranking: str
    inspected_share: float = pa.Field(ge=0, le=1)
    found_share: float = pa.Field(ge=0, le=1)

    class Config:
        """No other columns, none missing."""

        strict = True

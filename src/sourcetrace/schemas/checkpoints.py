"""Tables of the checkpoint ingest."""

import pandera.polars as pa
import polars as pl


class CheckpointManifest(pa.DataFrameModel):
    """One row a checkpoint, in the order of training."""

    checkpoint_id: str = pa.Field(unique=True, str_length={"min_value": 1})
    file: str
    step: int = pa.Field(ge=0, unique=True)
    stage: str
    segment: int = pa.Field(ge=1)
    learning_rate: float = pa.Field(ge=0)
    momentum: float = pa.Field(ge=0, lt=1)
    weight_decay: float = pa.Field(ge=0)
    step_mass: float = pa.Field(ge=0)
    sha256: str = pa.Field(str_matches=r"^[0-9a-f]{64}$")
    bytes: int = pa.Field(gt=0)
    attributed_share: float = pa.Field(ge=0, le=1)

    class Config:
        """No other columns, none missing."""

        strict = True


class UnattributedParameters(pa.DataFrameModel):
    """One row a parameter that carries no attribution."""

    parameter: str = pa.Field(unique=True)
    size: int = pa.Field(ge=0)
    reason: str

    class Config:
        """No other columns, none missing."""

        strict = True


def checkpoint_manifest(rows: list[dict[str, object]]) -> pl.DataFrame:
    """Return the manifest with its columns' types, empty or not."""
    return pl.DataFrame(
        rows,
        schema={
            "checkpoint_id": pl.String,
            "file": pl.String,
            "step": pl.Int64,
            "stage": pl.String,
            "segment": pl.Int64,
            "learning_rate": pl.Float64,
            "momentum": pl.Float64,
            "weight_decay": pl.Float64,
            "step_mass": pl.Float64,
            "sha256": pl.String,
            "bytes": pl.Int64,
            "attributed_share": pl.Float64,
        },
    )

"""What the tables have in common: their columns are stated once, here for pandera and polars."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandera.polars as pa
import polars as pl


class Table(pa.DataFrameModel):
    """A table with the columns that its class states, no others, none missing."""

    class Config:
        """Of every table."""

        strict = True

    @classmethod
    def columns(cls) -> dict[str, pl.DataType]:
        """Return column -> type, in their order."""
        return {name: column.dtype.type for name, column in cls.to_schema().columns.items()}

    @classmethod
    def frame(cls, rows: Iterable[Mapping[str, Any] | Sequence[Any]] = ()) -> pl.DataFrame:
        """Return rows, mappings or values in the order of the columns, with the columns' types."""
        return pl.DataFrame(list(rows), schema=cls.columns(), orient="row")

"""What the tables have in common: their columns are stated once, here for pandera and polars."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandera.polars as pa
import polars as pl

from sourcetrace.work.ledger import KeptFile


class Table(pa.DataFrameModel):
    """A table with the columns that its class states, no others, none missing."""

    class Config:
        """Of every table."""

        strict = True

    @classmethod
    def validate(cls, check_obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Return a table, refused if it is not as stated; a unit's file was checked before."""
        if isinstance(check_obj, KeptFile):
            return check_obj
        return super().validate(check_obj, *args, **kwargs)

    @classmethod
    def columns(cls) -> dict[str, pl.DataType]:
        """Return column -> type, in their order."""
        return {name: column.dtype.type for name, column in cls.to_schema().columns.items()}

    @classmethod
    def frame(cls, rows: Iterable[Mapping[str, Any] | Sequence[Any]] = ()) -> pl.DataFrame:
        """Return rows, mappings or values in the order of the columns, with the columns' types."""
        return pl.DataFrame(list(rows), schema=cls.columns(), orient="row")

"""What the tables have in common: their columns are stated once, here for pandera and polars."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandera.polars as pa
import polars as pl

from sourcetrace.work.unit import KeptFile


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


def first_of(table: pl.LazyFrame, column: str) -> Any:
    """Return what the first row has, read alone: a column may say the same of all."""
    return table.lazy().select(column).head(1).collect().item()


def beside(table: pl.DataFrame, other: pl.DataFrame) -> pl.DataFrame:
    """Return a table with what another has of each `example_id`; null where it has nothing.

    Of tables in the same order, as most are, no id is looked up.
    """
    if table["example_id"].equals(other["example_id"]):
        return pl.concat([table, other.drop("example_id")], how="horizontal")
    return table.join(other, on="example_id", how="left", validate="1:1", maintain_order="left")

"""Columns of a table: numbers as one float tensor, categories as integer codes."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import polars as pl
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from sourcetrace.errors import InputError
from sourcetrace.formats import format_names
from sourcetrace.tasks.data.base import DataArguments, DataTask
from sourcetrace.tasks.data.identity import content_digest
from sourcetrace.tasks.data.labels import refuse_repeated
from sourcetrace.tasks.data.side import ByNumber
from sourcetrace.tasks.data.sources import Rows
from sourcetrace.validation import validated


class _Scale(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: float = Field(allow_inf_nan=False)
    scale: float = Field(gt=0, allow_inf_nan=False)


class _TableArguments(DataArguments):
    """Arguments of `TableData`, beside those of every adapter.

    Attributes:
        numeric: Columns of numbers, in the order in which the model takes them.
        categorical: Columns of categories, in that order; a mapping also gives the values in the
            order of their codes, null for the sorted values of the training rows.
        standardise: Column -> mean and scale of the training's own (x - mean) / scale.
    """

    numeric: tuple[str, ...] = ()
    categorical: tuple[str, ...] | dict[str, tuple[str | int | bool, ...] | None] = ()
    standardise: dict[str, _Scale] = Field(default={})


class TableData(DataTask):
    """Numeric columns as a tensor [F] and categorical ones as codes [C], or the one that there is.

    The model is called with both, `model(numbers, codes)`, or with the one.

    Args:
        arguments: See `_TableArguments`.

    Attributes:
        categories: Categorical column -> its values in the order of their codes.
    """

    def __init__(self, **arguments: Any) -> None:
        self._table = validated(_TableArguments, arguments, name="task.arguments")
        given = self._table.categorical
        self._numeric = list(self._table.numeric)
        self.categories: dict[str, Sequence[Any]] = dict.fromkeys(given, ())
        if isinstance(given, Mapping):
            self.categories |= {name: values or () for name, values in given.items()}
        if not self._columns():
            raise InputError("task.arguments: name the columns, numeric: […] or categorical: […].")
        refuse_repeated(self._columns(), "task.arguments.numeric and categorical")
        for name, values in self.categories.items():
            refuse_repeated(values, f"task.arguments.categorical.{name}")
        strange = [name for name in self._table.standardise if name not in self._numeric]
        if strange:
            raise InputError(
                f"task.arguments.standardise has {format_names(map(repr, strange))}; expected "
                "columns of task.arguments.numeric."
            )
        super().__init__(self._table)

    def forward(self, model: nn.Module, batch: Any) -> Any:
        """Return `model(numbers, codes)`, or of the one that there is."""
        if self._numeric and self.categories:
            return model(*batch[0])
        return model(batch[0])

    def _columns(self) -> Sequence[str]:
        return [*self._numeric, *self.categories]

    def _usable(self, rows: Rows) -> Rows:
        for name in self._columns():
            column = rows.table[name]
            missing = column.is_null()
            if name in self._numeric:
                if not (column.dtype.is_numeric() or column.dtype == pl.Boolean):
                    raise InputError(
                        f"{rows.called}: {name!r} holds {column.dtype}; expected numbers. Name it "
                        "in task.arguments.categorical, or convert it."
                    )
                missing |= ~column.cast(pl.Float64).is_finite().fill_null(value=True)
            rows.refuse(
                missing,
                f"{name!r} is empty or not finite",
                "Write the values that training put there, or leave the rows out (where: …).",
            )
        return rows

    def _learn(self, rows: Rows) -> None:
        for name, values in self.categories.items():
            column = rows.table[name]
            if isinstance(column.dtype, pl.Categorical | pl.Enum):  # sorted in an order of theirs
                column = column.cast(pl.String)
            self.categories[name] = values or column.unique().sort().to_list()

    def _inputs(self, rows: Rows) -> Any:
        parts = []
        if self._numeric:
            numbers = rows.table.select(self._scaled(name) for name in self._numeric)
            parts.append(torch.from_numpy(numbers.to_numpy().astype(np.float32)))
        if self.categories:
            codes = [self._codes(rows, name) for name in self.categories]
            parts.append(torch.from_numpy(np.stack(codes, axis=1)))
        if len(parts) == 1:
            return parts[0]
        return ByNumber(rows.table.height, partial(_together, parts))

    def _scaled(self, name: str) -> pl.Expr:
        value, by = pl.col(name).cast(pl.Float64), self._table.standardise.get(name)
        return value if by is None else (value - by.mean) / by.scale

    def _codes(self, rows: Rows, name: str) -> "np.ndarray[Any, Any]":
        values, column = self.categories[name], rows.table[name]
        text = [str(value) for value in pl.Series(values, strict=False).cast(pl.String)]
        codes = column.cast(pl.String).replace_strict(
            text, range(len(text)), default=None, return_dtype=pl.Int64
        )
        rows.refuse(
            codes.is_null(),
            f"{name!r} has a value that is none of {format_names(map(repr, values))}",
            "The model has no code for it: leave the rows out (where: …), or give the training's "
            "values in the order of their codes, task.arguments.categorical: {column: […]}.",
        )
        return codes.to_numpy()

    def _contents(self, rows: Rows) -> list[str]:
        table = rows.table.select(
            pl.col(self._numeric).cast(pl.Float64), pl.col(list(self.categories)).cast(pl.String)
        )
        return [content_digest(repr(row).encode()) for row in table.iter_rows()]


def _together(parts: Sequence[Tensor], index: int) -> tuple[Tensor, ...]:
    return tuple(part[index] for part in parts)

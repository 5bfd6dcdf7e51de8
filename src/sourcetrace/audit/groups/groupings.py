"""The ways in which training examples are grouped: one text an example, null for no group."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import polars as pl

from sourcetrace.schemas.review import labels_are_numbers

_MOST_VALUES = 20
"""Values of a column whose every value is a slice; of more, numbers are cut, texts left."""

_BINS = 5
_OWN_COLUMNS = ("example_id", "label", "stage")


def groupings(
    train_table: pl.DataFrame, review_list: pl.DataFrame
) -> Iterator[tuple[str, pl.Series]]:
    """Yield the kind of each grouping and the group of every example, null where it has none.

    Label pairs are of examples whose prediction is not their label. An example of several stages
    counts in each.

    Args:
        train_table: `schemas.TrainTable`.
        review_list: `schemas.ReviewList`, in the same order.
    """
    given, predicted = review_list["given_label"], review_list["predicted_label"]
    numbers = labels_are_numbers(review_list)
    if not numbers:
        pair = pl.when(given != predicted).then(pl.format("{} → {}", given, predicted))
        yield "label_pair", review_list.select(pair.alias("pair"))["pair"]
        yield "class", given
    columns = train_table.drop(*_OWN_COLUMNS, strict=False)
    if numbers:
        columns = columns.with_columns(label=given.cast(pl.Float64, strict=False))
    for values in slices(columns):
        yield "slice", values
    stages = train_table["stage"]
    for stage in stages.explode().unique().sort().drop_nulls():
        within = pl.when(stages.list.contains(stage)).then(pl.lit(stage))
        yield "stage", train_table.select(within.alias("stage"))["stage"]


def slices(table: pl.DataFrame) -> Iterator[pl.Series]:
    """Yield the slice of every row, "column: value", for each column that has any to speak of.

    Args:
        table: Columns of few values are sliced by value, of more numbers or moments by quantiles.
    """
    for column in table:
        values = _sliced(column)
        if values is not None:
            yield f"{column.name}: " + values


def _sliced(column: pl.Series) -> pl.Series | None:
    """Return the slice of every value, as text; None where the column has none to speak of."""
    if column.dtype.is_nested() or column.dtype == pl.Binary:
        return None
    if column.n_unique() <= _MOST_VALUES:
        return column.cast(pl.String).fill_null("missing")
    if not (column.dtype.is_numeric() or column.dtype.is_temporal()):
        return None
    numbers = column.to_physical().cast(pl.Float64).fill_nan(None)
    cuts = np.linspace(0, 1, _BINS + 1)
    edges = np.unique(np.quantile(numbers.drop_nulls(), cuts, method="nearest")).tolist()
    texts = [
        f"{edge:.4g}"
        if column.dtype.is_numeric()
        else f"{pl.Series([int(edge)]).cast(column.dtype)[0]}"
        for edge in edges
    ]
    names = pl.Series([f"{low} to {high}" for low, high in pairwise(texts)])
    bins = pl.Series(edges[1:-1], dtype=pl.Float64).search_sorted(numbers.fill_null(0), "left")
    return names.gather(bins).zip_with(numbers.is_not_null(), pl.Series(["missing"]))

"""Labels of a column as the losses want them: numbers of classes, or numbers."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import polars as pl

from sourcetrace.errors import InputError
from sourcetrace.formats import format_names
from sourcetrace.tasks.data.sources import Rows


def labelled(rows: Rows, column: str) -> pl.Series:
    """Return which rows have a label, [N] bool; -1 is none where the column's numbers have names.

    That is how public test sets without labels are written.
    """
    labels = rows.table[column]
    found = labels.is_not_null()
    if labels.dtype.is_float():
        found &= labels.is_not_nan()
    if column in rows.class_names and labels.dtype.is_integer():
        found &= labels != -1
    return found


def names_of_classes(rows: Rows, column: str) -> Sequence[str] | None:
    """Return the names of the classes in the order of the logits; None where they are numbers.

    Args:
        rows: Of the training data.
        column: Of the label.

    Raises:
        InputError: If one is empty, or all are numbers as text, whose order is anybody's guess.
    """
    if column in rows.class_names:
        return rows.class_names[column]
    labels = rows.table[column]
    if not _is_text(labels):
        return None
    names = labels.cast(pl.String).unique().sort().to_list()
    if not all(map(str.strip, names)):
        raise InputError(
            f"{rows.called}: labels in {column!r} are empty text. Write null where there is no "
            "label, or set label_names where that is a class, in the order of the logits."
        )
    if all(name.strip().lstrip("+-").isdigit() for name in names):
        raise InputError(
            f"{rows.called}: the labels in {column!r} are numbers written as text "
            f"({format_names(names)}). Write them as numbers, or set label_names to them in the "
            "order of the logits."
        )
    return names


def with_names(rows: Rows, column: str) -> Rows:
    """Return rows whose classes are called by name, where the source has names of its numbers."""
    names, labels = rows.class_names.get(column), rows.table[column]
    if not names or not labels.dtype.is_integer():
        return rows
    others = "number " + labels.cast(pl.String)  # refused as none of the names
    named = labels.replace_strict(range(len(names)), list(names), default=others)
    return replace(rows, table=rows.table.with_columns(named.alias(column)))


def refuse_repeated(values: Iterable[Any], called: str) -> None:
    """Refuse columns, categories or classes of which one is named twice."""
    repeated = [repr(value) for value, times in Counter(map(str, values)).items() if times > 1]
    if repeated:
        raise InputError(f"{called}: {format_names(repeated)} is there twice; expected it once.")


def class_numbers(rows: Rows, column: str, names: Sequence[str] | None) -> pl.Series:
    """Return every row's class, [N] int64.

    Raises:
        InputError: If a label is none of the classes.
    """
    labels = rows.table[column]
    if _is_text(labels) and names:
        numbers = labels.cast(pl.String).replace_strict(
            list(names), range(len(names)), default=None, return_dtype=pl.Int64
        )
    else:
        numbers = labels.cast(pl.Int64, strict=False)
        whole = numbers.cast(pl.Float64) == labels.cast(pl.Float64, strict=False)
        inside = (numbers >= 0) & (numbers < len(names)) if names else numbers >= 0
        numbers = numbers.set((~(inside & whole)).fill_null(value=True), None)
    unknown = numbers.is_null()
    if unknown.any():
        strange = labels.filter(unknown).cast(pl.String).unique().sort()
        expected = f"one of {format_names(map(repr, names))}" if names else "numbers from 0"
        raise InputError(
            f"{rows.called}: {column!r} is {format_names(map(repr, strange))} in "
            f"{rows.named(unknown)}; expected {expected}, as the model's outputs are numbered. "
            "Correct the labels, set label_names, or leave these rows out (where: …)."
        )
    return numbers


def _is_text(labels: pl.Series) -> bool:
    return labels.dtype == pl.String or isinstance(labels.dtype, pl.Categorical | pl.Enum)

"""Labels of a column as the losses want them: numbers of classes, or numbers."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import polars as pl
import torch
from torch import Tensor

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


def targets_of(
    rows: Rows, column: str, *, names: Sequence[str] | None, classes: bool, shares: bool
) -> tuple[Tensor, pl.Series]:
    """Return the targets, [N] or [N, K], and the labels as the page shows them, [N].

    Args:
        rows: Of a side.
        column: Of the label.
        names: Of the classes in the order of the logits, where they have any.
        classes: Whether labels are classes.
        shares: Whether labels that are none are a share a class, and not numbers.

    Raises:
        InputError: If a label is not what it should be.
    """
    labels = rows.table[column]
    if classes:
        numbers = _class_numbers(rows, column, names)
        return torch.from_numpy(numbers.to_numpy().copy()), _called(numbers, names)
    try:
        if not labels.dtype.is_nested():
            numbers = labels.cast(pl.Float32)
            return torch.from_numpy(numbers.to_numpy().copy()), labels
        targets = torch.tensor(labels.to_list(), dtype=torch.float32)
    except (pl.exceptions.PolarsError, TypeError, ValueError) as error:
        raise InputError(
            f"{rows.called}: {column!r} holds {labels.dtype}; expected numbers, or lists of "
            f"as many numbers each: {error}"
        ) from error
    if shares:
        without = pl.Series((~targets.isfinite()).any(-1).tolist())
        rows.refuse(without, f"{column!r} is NaN or infinite", "Correct the shares.")
        return targets, _called(pl.Series(targets.argmax(-1).tolist()), names)
    return targets, pl.Series([", ".join(map(str, one)) for one in labels.to_list()])


def _called(numbers: pl.Series, names: Sequence[str] | None) -> pl.Series:
    """Return classes as their names, where they have any."""
    return numbers.replace_strict(range(len(names)), list(names)) if names else numbers


def _class_numbers(rows: Rows, column: str, names: Sequence[str] | None) -> pl.Series:
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

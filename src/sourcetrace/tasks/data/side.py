"""A side of a data task as it is handed on: items, a row each, names and contents."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Self

import polars as pl
from torch import Tensor
from torch.utils.data import Dataset

from sourcetrace.errors import InputError
from sourcetrace.formats import format_names
from sourcetrace.tasks.data.sources import Rows


@dataclass(frozen=True)
class ByNumber:
    """What is made of so many rows, each when it is asked for by its number.

    Attributes:
        count: Of the rows.
        make: Number -> item; one that pickle knows, for workers of a `DataLoader` that are spawned.
    """

    count: int
    make: Callable[[int], Any]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        return self.make(index)


class Examples(Dataset[Any]):
    """Inputs with their targets, [N, …]."""

    def __init__(self, inputs: Any, targets: Tensor | None) -> None:
        self.inputs, self.targets = inputs, targets

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        if not 0 <= index < len(self):  # that iterating ends, whatever the inputs are
            raise IndexError(index)
        inputs = self.inputs[index]
        return (inputs,) if self.targets is None else (inputs, self.targets[index])


@dataclass(frozen=True)
class Side:
    """A side's table and examples; the digests of their inputs."""

    table: pl.DataFrame
    examples: Examples
    ids: Sequence[str]
    contents: Sequence[str]

    def relabelled(self, labels: Mapping[int, str], names: Sequence[str] | None) -> Self:
        """Return the side with other labels, as its table writes them, of rows by number.

        Args:
            labels: Number -> label.
            names: Of the classes, where they have any.

        Raises:
            InputError: If examples have no label, or several, or a new one is none of theirs.
        """
        targets = self.examples.targets
        if not labels:
            return self
        if targets is None or targets.ndim > 1:
            raise InputError(
                "Only examples with one label each can be relabelled; leave these out instead."
            )
        targets, shown = targets.clone(), self.table["label"].to_list()
        classes = {name: place for place, name in enumerate(names or ())}
        for number, label in labels.items():
            kind = str if names else type(shown[number])
            value = classes.get(label) if names else _number(label)
            if value is None or (not names and kind(value) != value):
                expected = f"one of {format_names(map(repr, classes))}" if names else kind.__name__
                raise InputError(
                    f"The new label of example {self.ids[number]!r} is {label!r}; expected "
                    f"{expected}. Correct it where the labels were decided."
                )
            targets[number] = value
            shown[number] = label if names else kind(value)
        column = pl.Series("label", shown, dtype=self.table["label"].dtype)
        examples = Examples(self.examples.inputs, targets)
        return replace(self, table=self.table.with_columns(column), examples=examples)


def _number(label: str) -> float | None:
    with suppress(ValueError):
        if math.isfinite(value := float(label)):
            return value
    return None


def wanted_of(manifest: Rows, ids: Sequence[str]) -> pl.DataFrame:
    """Return `label` and `keep` of every example; what a manifest does not know is kept.

    Args:
        manifest: `schemas.CleanedData`, as a program or a spreadsheet may have written it.
        ids: Of the examples.

    Raises:
        InputError: If it is damaged, or of other examples.
    """
    words = {"true": True, "false": False}
    keep = pl.col("keep").cast(pl.String).str.to_lowercase()
    table = manifest.table.with_columns(
        keep.replace_strict(words, default=None, return_dtype=pl.Boolean)
    )
    if table["keep"].null_count() or table["example_id"].is_duplicated().any():
        raise InputError(
            f"{manifest.called}: expected one row an example, with true or false in 'keep'. Put it "
            "back as apply_decisions wrote it."
        )
    wanted = pl.DataFrame({"example_id": ids}, schema={"example_id": pl.String}).join(
        table, on="example_id", how="left", maintain_order="left"
    )
    if wanted["keep"].null_count() == wanted.height:
        raise InputError(
            f"{manifest.called} names none of the training examples. Name the manifest of this "
            "data, and the same column of ids as in the audit that it is of."
        )
    return wanted.with_columns(pl.col("keep").fill_null(value=True))

"""A side of a data task as it is handed on: items, a row each, names and contents."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import polars as pl
from torch import Tensor
from torch.utils.data import Dataset

from sourcetrace.errors import InputError


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
            InputError: If examples have no label, or several.
        """
        targets = self.examples.targets
        if not labels:
            return self
        if targets is None or targets.ndim > 1:
            raise InputError(
                "Only examples with one label each can be relabelled; leave these out instead."
            )
        targets, shown = targets.clone(), self.table["label"].to_list()
        for number, label in labels.items():
            shown[number] = type(shown[number])(label)
            targets[number] = names.index(label) if names else shown[number]
        column = pl.Series("label", shown, dtype=self.table["label"].dtype)
        examples = Examples(self.examples.inputs, targets)
        return replace(self, table=self.table.with_columns(column), examples=examples)

"""Training examples of a process that has not read all of them."""

import operator
import platform
from dataclasses import dataclass
from typing import Any, Self

import polars as pl

from sourcetrace.audit.identity.data_digest import item_digests
from sourcetrace.errors import OtherDataError, with_place
from sourcetrace.pipelines.set_up.contents import digest_of_example, whole_digests
from sourcetrace.pipelines.shared.inputs import Ingested


@dataclass
class MatchedItems:
    """Training examples of a process that has not read all, compared as they are first read.

    Attributes:
        items: As the task gives them here.
        table: `example_id` and `stage`, as the ingest wrote them.
        whole: What they must be, rows of `DIGEST`.
    """

    items: Any
    table: pl.DataFrame
    whole: pl.DataFrame

    @classmethod
    def of(cls, inputs: Ingested) -> Self:
        """Return those of an audit.

        Raises:
            OtherDataError: If they are not as many.
        """
        items: Any = inputs.task.train_examples()
        table = inputs.train_table
        if len(items) != table.height:
            raise _other_data(f"There are {len(items):,} training examples, not {table.height:,}")
        return cls(items, table, whole_digests(inputs))

    def __post_init__(self) -> None:
        self._matched = bytearray(self.table.height)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> Any:
        index = operator.index(number)
        if self._matched[index]:
            return self.items[index]
        name, stages = self.table["example_id"][index], self.table["stage"][index]
        try:
            item = self.items[index]
            inputs, label = item_digests(item)
        except Exception as error:  # the user's code may raise anything, and did not for the ingest
            said = with_place(error)
            raise _other_data(f"Example {name!r} (index {index}) cannot be read: {said}") from error
        if digest_of_example(name, stages, inputs, label) != self.whole.row(index):
            raise _other_data(f"Example {name!r} (index {index}) is not the one that was ingested")
        self._matched[index] = True
        return item


def _other_data(what: str) -> OtherDataError:
    return OtherDataError(
        f"{what}: {platform.node()} has other data than the process that started the audit. Give "
        "all machines the same."
    )

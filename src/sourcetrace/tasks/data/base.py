"""What every adapter gives a task: examples of both sides, and their tables.

An item is `(inputs, target)`; `(inputs,)` where there is no label.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import polars as pl
from pydantic import BaseModel, ConfigDict
from torch.utils.data import Dataset

from sourcetrace.errors import InputError
from sourcetrace.formats import format_names, format_noun
from sourcetrace.quoting import unquoted
from sourcetrace.schemas.examples import label_text
from sourcetrace.tasks.classification import ClassificationTask
from sourcetrace.tasks.data.identity import (
    duplicate_notes,
    lookalike_notes,
    numbered,
    overlap_notes,
)
from sourcetrace.tasks.data.labels import (
    labelled,
    names_of_classes,
    refuse_repeated,
    targets_of,
    with_names,
)
from sourcetrace.tasks.data.side import Examples, Side, wanted_of
from sourcetrace.tasks.data.sources import Rows, Source
from sourcetrace.tasks.protocol import TaskBase
from sourcetrace.tasks.regression import RegressionTask

_ID = "example_id"
_OWN = frozenset({_ID, "label", "stage"})


class DataArguments(BaseModel):
    """Arguments of every adapter.

    Attributes:
        train: Source of the training examples: a path, an entry of the catalog or a data frame.
        queries: Source of the examples that are explained.
        label: Column of the label; null where there is none.
        example_id: Column of unique names; by default `example_id` where there is one, else names
            are digests of the inputs.
        stage: Column of the stages of training.
        show: Further columns for the page.
        label_names: Names of the classes in the order of the logits.
        cleaned: Source of `schemas.CleanedData`: which training examples are left out, and which
            have another label.
        holdout: Source of examples that no audit reads, on which cleaning is measured.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: Any
    queries: Any
    label: str | None = "label"
    example_id: str | None = None
    stage: str | None = None
    show: tuple[str, ...] = ()
    label_names: tuple[str, ...] | None = None
    cleaned: Any = None
    holdout: Any = None


class DataTask(TaskBase, ABC):
    """The data of a task from its arguments.

    A user's class is derived from a kind of it and from a task with losses, in any order:
    `class Churn(TableData, ClassificationTask)`.

    Attributes:
        notes: What is to be known of the data: rows left out, duplicates, names that look alike.
    """

    def __init__(self, given: DataArguments) -> None:
        self.notes: list[str] = []
        self._given = given
        training = self._rows(given.train, "task.arguments.train", [given.stage])
        queries = self._rows(given.queries, "task.arguments.queries", [])
        self._name_classes(training)
        training = self._as_trained(self._usable(training))
        self._learn(training)
        self._train = self._cleaned(training)
        self._queries = self._side(self._usable(queries))
        self.notes += overlap_notes(
            queries.called, self._queries.ids, self._queries.contents, self._train.contents
        )
        self._holdout = None
        if given.holdout is not None:
            holdout = self._rows(given.holdout, "task.arguments.holdout", [])
            self._holdout = self._side(self._usable(holdout))

    def train_examples(self) -> Dataset[Any]:
        """Return the training examples."""
        return self._train.examples

    def query_examples(self) -> Dataset[Any]:
        """Return the examples that are explained."""
        return self._queries.examples

    def train_table(self) -> pl.DataFrame:
        """Return a row a training example."""
        return self._train.table

    def query_table(self) -> pl.DataFrame:
        """Return a row a query."""
        return self._queries.table

    def holdout_examples(self) -> Dataset[Any] | None:
        """Return the examples that no audit reads; None where there are none."""
        return None if self._holdout is None else self._holdout.examples

    def holdout_table(self) -> pl.DataFrame | None:
        """Return a row for each of them."""
        return None if self._holdout is None else self._holdout.table

    def relabelled(self, labels: Mapping[int, str]) -> Self:
        """Return the task with other labels of the training examples with these numbers."""
        other = copy.copy(self)
        other._train = self._train.relabelled(labels, getattr(self, "label_names", None))
        return other

    def queries_of(self, source: Any) -> tuple[Dataset[Any], pl.DataFrame]:
        """Return queries that are not of the audit, and a row each.

        Args:
            source: A path or a data frame with the columns that `queries` has, or one query as it
                was typed: `text`, `completion` and `label`, those of them that it has.
        """
        table = self._typed(source) if isinstance(source, Mapping) else source
        side = self._side(self._usable(self._rows(table, "The further queries", [])))
        return side.examples, side.table

    def _typed(self, given: Mapping[str, str]) -> pl.DataFrame:
        """Return the row of a query that was typed."""
        names = dict(zip(("text", "completion"), self._columns(), strict=False))
        names |= {"label": self._given.label} if self._given.label else {}
        strange = given.keys() - names.keys()
        if strange:
            raise InputError(
                f"{type(self).__name__} takes no {format_names(sorted(strange))} of a query: its "
                f"columns are {format_names(names.values())}. Leave it out, or hand over a file."
            )
        row = {names[name]: [value] for name, value in given.items()}
        return pl.DataFrame({**row, self._given.example_id or _ID: ["typed"]})

    @abstractmethod
    def _columns(self) -> Sequence[str]:
        """Return the columns that inputs are made of."""

    def _shown(self) -> Sequence[str]:
        """Return the columns that the page shows without being asked."""
        return self._columns()

    def _usable(self, rows: Rows) -> Rows:
        """Refuse or leave out rows without usable inputs."""
        return rows

    def _as_trained(self, rows: Rows) -> Rows:
        """Return a row a training example, where the rows of the source are none yet."""
        return rows

    def _learn(self, rows: Rows) -> None:
        """Remember what the queries' inputs are made by, from the training rows."""

    @abstractmethod
    def _inputs(self, rows: Rows) -> Any:
        """Return every row's inputs, by number: a tensor [N, …], or what has N items."""

    @abstractmethod
    def _contents(self, rows: Rows) -> list[str]:
        """Return a digest of every row's inputs as the source has them."""

    def _read(
        self, given: Any, called: str, columns: Sequence[str], optional: Sequence[str]
    ) -> Rows:
        """Read columns of a source."""
        text = [self._given.example_id or _ID]
        return Source.of(given, called).rows(columns, optional=optional, text=text)

    def _rows(self, given: Any, called: str, more: Sequence[str | None]) -> Rows:
        """Read a side's rows, without those that have no label."""
        named = [self._given.label, self._given.example_id, *more]
        columns = [*self._columns(), *filter(None, named)]
        rows = self._read(given, called, columns, [*self._given.show, _ID])
        column = self._given.example_id or (_ID if _ID in rows.table.columns else None)
        rows = replace(rows, id_column=column)
        if self._given.label is None:
            return rows
        known = labelled(rows, self._given.label)
        rows = self._without(rows, ~known, f"no label in {self._given.label!r}")
        return with_names(rows, self._given.label) if self._classifies(rows) else rows

    def _without(self, rows: Rows, chosen: pl.Series, reason: str) -> Rows:
        """Leave rows out, and say so; `chosen` is [N] bool."""
        count = int(chosen.sum())
        if count == rows.table.height:
            raise InputError(f"{rows.called}: every row has {reason}; expected at least one more.")
        if not count:
            return rows
        self.notes.append(
            f"{rows.called}: {format_noun(count, 'row')} of {rows.table.height} left out, "
            f"{reason}: {rows.named(chosen)}"
        )
        return replace(rows, table=rows.table.filter(~chosen))

    def _name_classes(self, rows: Rows) -> None:
        """Set `label_names`, where the arguments, the class or the training labels have any."""
        named = (one for one in type(self).__mro__ if "label_names" in vars(one))
        own = next((one for one in named if not one.__module__.startswith("sourcetrace.")), None)
        names = self._given.label_names or (None if own is None else vars(own)["label_names"])
        if not names and self._given.label is not None and self._classifies(rows):
            names = names_of_classes(rows, self._given.label)
        if names:
            refuse_repeated(names, "label_names")
            self.label_names = names

    def _classifies(self, rows: Rows) -> bool:
        """Return whether labels are classes: by the task's losses, else by the column's type."""
        kind = rows.table[str(self._given.label)].dtype
        if isinstance(self, ClassificationTask | RegressionTask) and not kind.is_nested():
            return isinstance(self, ClassificationTask)
        return not kind.is_float() and not kind.is_nested()

    def _side(self, rows: Rows) -> Side:
        inputs, contents = self._inputs(rows), self._contents(rows)
        given = None if rows.id_column is None else rows.table[rows.id_column].cast(pl.String)
        ids = pl.Series(numbered(contents)) if given is None else given
        columns = {_ID: ids}
        targets = None
        if self._given.label is not None:
            targets, columns["label"] = targets_of(
                rows,
                self._given.label,
                names=getattr(self, "label_names", None),
                classes=self._classifies(rows),
                shares=isinstance(self, ClassificationTask),
            )
        if self._given.stage is not None and self._given.stage in rows.table.columns:
            columns["stage"] = rows.table[self._given.stage]
        for name in (*self._given.show, *self._shown()):
            if name in rows.table.columns and name not in _OWN:
                columns[name] = rows.table[name]
        table, names = pl.DataFrame(columns), ids.fill_null("").to_list()
        labels = table["label"].to_list() if "label" in columns else [None] * len(names)
        self.notes += lookalike_notes(rows.called, names)
        self.notes += duplicate_notes(rows.called, names, contents, labels)
        return Side(table, Examples(inputs, targets), names, contents)

    def _cleaned(self, rows: Rows) -> Side:
        """Return the training side, as the manifest wants it where there is one."""
        notes, side = list(self.notes), self._side(rows)
        if self._given.cleaned is None:
            return side
        source = Source.of(self._given.cleaned, "task.arguments.cleaned")
        manifest = source.rows([_ID, "label", "keep"], text=[_ID, "label"])
        if source.for_spreadsheets:
            plain = unquoted(pl.col(_ID, "label"))
            manifest = replace(manifest, table=manifest.table.with_columns(plain))
        wanted = wanted_of(manifest, side.ids)
        kept = wanted["keep"]
        self.notes = notes
        names = side.table[_ID].filter(kept)  # which copies of one another had before
        side = self._side(replace(rows, table=rows.table.filter(kept)))
        side = replace(side, table=side.table.with_columns(names), ids=names.to_list())
        labels = {}
        if self._given.label is not None:
            pairs = zip(wanted["label"].filter(kept), label_text(side.table["label"]), strict=True)
            labels = {i: new for i, (new, old) in enumerate(pairs) if new not in {None, old}}
        self.notes.append(
            f"{source.called}: {format_noun(int((~kept).sum()), 'training example')} left out, "
            f"{len(labels)} with another label"
        )
        return side.relabelled(labels, getattr(self, "label_names", None))

"""Single queries by what is stored of them: without a task, a model or torch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, ClassVar, Self

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict

from sourcetrace.errors import InputError
from sourcetrace.formats import format_names, format_noun
from sourcetrace.reporting.explanation import ExplainedQuery, Explanations, Influence
from sourcetrace.schemas.query_view import KINDS, SIDES

SHOWN_A_SIDE = 5
"""Helpers, and harmers, of a query that are shown where nobody says how many."""

_NOT_SHOWN = {"example_id", "label", "stage"}
_CLOSE = 1e-3


class Measurement(BaseModel):
    """What a task measures of queries.

    Attributes:
        name: What it is called.
        higher_is_better: Whether more of it is better.
        by_token: Whether the task's examples have tokens.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    higher_is_better: bool
    by_token: bool


@dataclass(frozen=True)
class QueryView:
    """What is stored of an audit's queries.

    Attributes:
        method: That scored.
        training_examples: How many were scored.
        measurement: Of the queries.
        query_strongest: `schemas.QueryStrongest`.
        query_shares: `schemas.QueryShares`.
        query_signals: `schemas.QuerySignals`.
        query_table: `schemas.QueryTable`.
        train_table: `schemas.TrainTable`.
    """

    TABLES: ClassVar = (
        "query_strongest",
        "query_shares",
        "query_signals",
        "query_table",
        "train_table",
    )

    method: str
    training_examples: int
    measurement: Measurement
    query_strongest: pl.DataFrame
    query_shares: pl.DataFrame
    query_signals: pl.DataFrame
    query_table: pl.DataFrame
    train_table: pl.DataFrame

    @classmethod
    def of(cls, load: Callable[[str], Any]) -> Self:
        """Return the view of an audit whose entries are loaded by their names."""
        summary = load("audit_summary")
        return cls(
            method=summary["method"],
            training_examples=summary["training_examples"],
            measurement=Measurement.model_validate(load("measurement")),
            **{name: load(name) for name in cls.TABLES},
        )

    def worst(self, count: int) -> list[str]:
        """Return the ids of the queries that are measured worst, the worst first."""
        order = worst_queries(
            self.query_signals, higher_is_better=self.measurement.higher_is_better
        )
        return self.query_signals["example_id"].gather(order.head(count)).to_list()

    def explained(self, queries: Sequence[str], strongest: int = SHOWN_A_SIDE) -> Explanations:
        """Return queries with their strongest examples and where their scores come from.

        Args:
            queries: Their ids.
            strongest: How many helpers, and harmers; no more than `query_strongest` has.

        Raises:
            InputError: If there is no such query.
        """
        places = query_places(queries, self.query_table["example_id"].to_list())
        signals = self.query_signals[places].rows_by_key("example_id", named=True, unique=True)
        table = self.query_table[places].rows_by_key(
            "example_id", named=True, include_key=True, unique=True
        )
        asked = pl.col("query_id").is_in(list(queries))
        found = self.query_strongest.filter(asked, pl.col("rank") <= strongest)
        examples = self.train_table.filter(
            pl.col("example_id").is_in(found["example_id"].unique().implode())
        ).rows_by_key("example_id", named=True, include_key=True, unique=True)
        by_side = found.partition_by("query_id", "side", as_dict=True)

        def influences(query: str, side: str) -> tuple[Influence, ...]:
            rows = by_side.get((query, side), found.clear())
            return tuple(
                Influence(**row_words(examples[name]), score=score)
                for name, score in rows.select("example_id", "score").iter_rows()
            )

        return Explanations(
            method=self.method,
            measured=self.measurement.name,
            higher_is_better=self.measurement.higher_is_better,
            log_odds=is_log_odds(self.query_signals),
            training_examples=self.training_examples,
            queries=tuple(
                ExplainedQuery(
                    **row_words(table[query]),
                    measurement=signals[query]["measurement"],
                    predicted_label=signals[query]["predicted_label"],
                    shares=shares_of(self.query_shares, query),
                    helpers=influences(query, SIDES[0]),
                    harmers=influences(query, SIDES[1]),
                )
                for query in queries
            ),
        )


def worst_queries(query_signals: pl.DataFrame, *, higher_is_better: bool) -> pl.Series:
    """Return the places of the queries, the one that is measured worst first."""
    rows = query_signals.select("measurement").with_row_index()
    return rows.sort(["measurement", "index"], descending=[not higher_is_better, False])["index"]


def query_places(wanted: Sequence[str], ids: Sequence[str]) -> list[int]:
    """Return the places of queries among all.

    Raises:
        InputError: If one is unknown.
    """
    places = {name: number for number, name in enumerate(ids)}
    unknown = [name for name in wanted if name not in places]
    if unknown or not wanted:
        near = {one for name in unknown for one in get_close_matches(name, ids, cutoff=0.5)}
        which = (
            f"There is no query {format_names(map(repr, unknown))}" if unknown else "Name a query"
        )
        like = "the nearest are" if near else "the first are"
        raise InputError(
            f"{which} among the {format_noun(len(ids), 'query', 'queries')} of this audit: {like} "
            f"{format_names(map(repr, sorted(near) or ids))}. Take names of the column example_id "
            "of query_table, or hand over queries of your own with --text or --file."
        )
    return [places[name] for name in wanted]


def row_words(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return id, label and, of what else an example's table has, what a person can read."""
    others = {
        name: one
        for name, one in row.items()
        if name not in _NOT_SHOWN and one is not None and not isinstance(one, list | dict | bytes)
    }
    label = row.get("label")
    named = (f"{name}: {one}" if len(others) > 1 else str(one) for name, one in others.items())
    return {
        "example_id": str(row["example_id"]),
        "label": None if label is None else str(label),
        "text": "; ".join(named),
    }


def shares_of(query_shares: pl.DataFrame, query: str) -> dict[str, dict[str, float]]:
    """Return kind -> name -> share of a query's scores; nothing where they are not known."""
    rows = query_shares.filter(query_id=query)
    kinds = {kind: rows.filter(kind=kind).select("name", "share") for kind in KINDS}
    return {kind: dict(found.iter_rows()) for kind, found in kinds.items() if found.height}


def is_log_odds(query_signals: pl.DataFrame) -> bool:
    """Return whether the measurements are log p − log(1 − p) of the given labels."""
    known = query_signals.select("measurement", "given_label_probability")
    if known["given_label_probability"].has_nulls():
        return False
    margins, probabilities = (column.to_numpy() for column in known)
    return bool(np.abs((1 + np.tanh(margins / 2)) / 2 - probabilities).max(initial=0) < _CLOSE)

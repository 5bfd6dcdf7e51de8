"""Hold a file of decisions against the audit: every fault is named, or every decision is taken."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from sourcetrace.audit.decisions.content import inputs_of
from sourcetrace.audit.decisions.standing import standing_decisions
from sourcetrace.errors import InputError
from sourcetrace.formats import format_names, format_noun, shorten
from sourcetrace.schemas.decisions import DECISIONS, DecisionLog
from sourcetrace.schemas.review import labels_are_numbers

_SHOWN = 20
"""Faults that a message names one by one."""
_SAID = ("decision", "new_label", "note")


@dataclass
class Audited:
    """What a file of decisions can be about, gone through line by line.

    Attributes:
        review_list: `schemas.ReviewList`.
        labels: Labels that the task has; none where it has no labels.
        log: `schemas.DecisionLog`, the decisions so far.
    """

    review_list: pl.DataFrame
    labels: frozenset[str]
    log: pl.DataFrame

    def __post_init__(self) -> None:
        self._latest: dict[tuple[str, str], tuple[str | None, ...]] = {}
        self._of_content: dict[str, tuple[str | None, ...]] = {}
        for content, name, *said in self.log.select("content_digest", "example_id", *_SAID).rows():
            self._remember(content, name, tuple(said))
        self._in_file: dict[str, tuple[str, str]] = {}
        self._taken: list[dict[str, Any]] = []
        self._numbers = labels_are_numbers(self.review_list)

    def new_decisions(
        self, rows: pl.DataFrame, *, called: str, decided_by: str, decided_at: str
    ) -> pl.DataFrame:
        """Return `schemas.DecisionLog` of the rows that say what the log does not say yet.

        Args:
            rows: As `read_decisions_file` returns them.
            called: What a message calls the file.
            decided_by: Who decided.
            decided_at: When, UTC, ISO 8601.

        Raises:
            InputError: If a row is wrong; it names every fault.
        """
        self._look_up(rows)
        faults = [
            f"line {row['line']} ({shorten(row['example_id'])}): {fault}"
            for row in rows.iter_rows(named=True)
            for fault in self._faults_of(row)
        ]
        if faults:
            rest = len(faults) - _SHOWN
            more = [f"and {format_noun(rest, 'further fault')}"] if rest > 0 else []
            raise InputError(
                f"{called}: {format_noun(len(faults), 'fault')}, so nothing was applied. "
                f"{'; '.join([*faults[:_SHOWN], *more])}. Correct these lines, or delete them."
            )
        of_all = {"decided_by": decided_by, "decided_at": decided_at}
        return DecisionLog.frame({**entry, **of_all} for entry in self._taken)

    def _look_up(self, rows: pl.DataFrame) -> None:
        """Find the examples that a row may mean, by id and by content."""
        table = self.review_list.select("example_id", "content_digest", "given_label")
        # Of the log, which may have come further than the list.
        table = table.with_columns(standing_decisions(table, self.log)["decision"])
        self._by_id, self._by_content = (
            {one[key]: one for one in table.join(rows, on=key, how="semi").to_dicts()}
            for key in ("example_id", "content_digest")
        )

    def _faults_of(self, row: Mapping[str, str]) -> list[str]:
        """Return what is wrong with a row, or take its decision."""
        decision, content, label = row["decision"], row["content_digest"], row["new_label"]
        label = label if label in self.labels else label.strip()
        example = self._example(row)
        name = (example or row)["example_id"]
        said = (decision, label or None, row["note"] or None)
        settled = (
            self._latest.get((content, name)) == said
            and (decision == "remove" or self._of_content[content] == said[:-1])
        ) or (example is not None and _repeats(row, example, label))
        faults = []
        if decision not in DECISIONS:
            faults = [f"{decision!r} is no decision; expected {format_names(DECISIONS)}"]
        elif example is None and not settled:
            faults = ["the audit has no example of this id or content"]
        elif example is not None and not settled:
            faults = [*_changed(content, example), *self._wrong_label(decision, label, example)]
        faults = faults or list(self._conflicts(content, name, (decision, label)))
        if not faults and not settled and example is not None:
            of_row = {"example_id": name, "given_label": example["given_label"]}
            self._taken.append({**row, **of_row, **dict(zip(_SAID, said, strict=True))})
            self._remember(content, name, said)
        return faults

    def _remember(self, content: str, name: str, said: tuple[str | None, ...]) -> None:
        self._latest[content, name] = said
        if said[0] != "remove":
            self._of_content[content] = said[:-1]

    def _example(self, row: Mapping[str, str]) -> Mapping[str, Any] | None:
        """Return the example that is meant: of two by id and by content, that of the content."""
        by_id, content = self._by_id.get(row["example_id"]), row["content_digest"]
        if by_id is not None and by_id["content_digest"] == content:
            return by_id
        return self._by_content.get(content, by_id)

    def _wrong_label(self, decision: str, label: str, example: Mapping[str, Any]) -> Iterator[str]:
        if decision != "relabel":
            if label:
                yield f"new_label is {label!r}, but the decision is {decision}"
        elif not label:
            yield "relabel needs a label in the column new_label"
        elif label == example["given_label"]:
            yield f"it has the label {label!r} already"
        elif not self._exists(label):
            labels = format_names(sorted(self.labels)) or "none"
            yield f"there is no label {label!r}; the labels are {labels}"

    def _exists(self, label: str) -> bool:
        if not self._numbers:
            return label in self.labels
        try:
            return math.isfinite(float(label))
        except ValueError:
            return False

    def _conflicts(self, content: str, name: str, said: tuple[str, str]) -> Iterator[str]:
        # A removal is of one copy; everything else is true of all.
        key = name if said[0] == "remove" else content
        for other in {key, name}:
            before = self._in_file.setdefault(other, said)
            if before != said:
                words = " ".join(filter(None, before))
                yield f"an earlier line decides otherwise about it ({words})"
                return


def _repeats(row: Mapping[str, str], example: Mapping[str, Any], label: str) -> bool:
    """Return whether a row says what stands anyway: it was exported so, or carried out."""
    content, now = row["content_digest"], example["content_digest"]
    if content == now:
        return not label and not row["note"] and row["decision"] == example["decision"]
    carried_out = row["decision"] == "relabel" and label == example["given_label"]
    return carried_out and inputs_of(content) == inputs_of(now)


def _changed(content: str, example: Mapping[str, Any]) -> Iterator[str]:
    now = example["content_digest"]
    if not content:
        yield "content_digest is empty; copy it from the review list"
    elif inputs_of(content) != inputs_of(now):
        yield "its content has changed since this was decided; look at it again"
    elif content != now:
        label = example["given_label"]
        yield f"its label has changed since this was decided, to {label!r}; look at it again"

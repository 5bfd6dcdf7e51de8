"""Tables of the section on the audit before: suspects, classes, layers, the last audits."""

from collections.abc import Sequence
from typing import Any

import polars as pl

from sourcetrace.audit.comparison.summary import AuditPoint, Comparison
from sourcetrace.formats import MISSING, format_count, format_noun, format_number, format_share
from sourcetrace.reporting.changes import format_correlation, format_moment
from sourcetrace.reporting.tables import Column, Table

ROWS = 12
FULL_TABLE = "data/08_reporting/audit_comparison.parquet"

_TITLES = {
    "new": "New suspects, most harmful first",
    "persisting": "Persisting suspects, most harmful first",
    "resolved": "Resolved suspects, by their rank in the audit before",
}


def suspect_tables(audit_comparison: pl.DataFrame, review_list: pl.DataFrame) -> list[Table]:
    """Return the first new, persisting and resolved suspects, as far as there are any."""
    predicted = review_list.select("example_id", "predicted_label", "rank")
    rows = audit_comparison.join(
        predicted, on=["example_id", "rank"], how="left", maintain_order="left"
    )
    tables = []
    for status, title in _TITLES.items():
        order = "rank_before" if status == "resolved" else "rank"
        own = rows.filter(status=status).sort(order)
        if own.height:
            tables.append(_suspect_table(status, title, own))
    return tables


def class_table(found: Comparison) -> Table | None:
    """Return the labels whose order by harm changed most."""
    classes = found.scores.classes
    if not classes:
        return None
    rows = [
        [one.label, format_count(one.examples), format_correlation(one.rank_correlation)]
        for one in classes[:ROWS]
    ]
    columns = (
        Column("Given label"),
        Column("Examples", "number"),
        Column("Rank correlation of harm", "number"),
    )
    return Table("Scores by label, lowest agreement first", columns, rows, _note(len(classes)))


def layer_table(found: Comparison) -> Table | None:
    """Return the layers whose curvature changed most."""
    layers = found.curvature.layers
    if not layers:
        return None
    rows = [
        [
            one.layer,
            format_count(one.segment),
            f"{format_number(10**one.distance)}×",
            MISSING if one.trace_ratio is None else f"{format_number(one.trace_ratio)}×",
        ]
        for one in layers[:ROWS]
    ]
    columns = (
        Column("Layer", "code"),
        Column("Segment", "number"),
        Column("Eigenvalues moved by", "number"),
        Column("Trace is now", "number"),
    )
    note = _note(len(layers)) + (
        " Moved by: the mean factor between the quantiles of both spectra; 1 where they are equal."
    )
    return Table("Curvature by layer, farthest first", columns, rows, note.strip())


def history_table(points: Sequence[AuditPoint]) -> Table:
    """Return the last audits, the newest first."""
    rows = [
        [
            format_moment(point.at) if point.at else "this audit",
            point.outcome,
            format_count(point.training_examples),
            format_share(point.suspect_share),
            format_share(point.harmful_share),
            format_number(point.mean_query_loss),
            format_correlation(point.trust_lds),
            _count(point.new),
            _count(point.resolved),
            _count(point.persisting),
            format_correlation(point.rank_correlation),
        ]
        for point in reversed(points)
    ]
    columns = (
        Column("Audit", "word"),
        Column("Gate", "word"),
        Column("Examples", "number"),
        Column("Suspects", "number"),
        Column("Harmful", "number"),
        Column("Mean query loss", "number"),
        Column("Trust (LDS)", "number"),
        Column("New", "number"),
        Column("Resolved", "number"),
        Column("Persisting", "number"),
        Column("Rank correlation", "number"),
    )
    note = f"{MISSING}: not measured, or no audit before it. Trust is measured by a verification."
    return Table("The last audits, newest first", columns, rows, note)


def _suspect_table(status: str, title: str, own: pl.DataFrame) -> Table:
    columns = [
        Column("Example", "code"),
        Column("What was done", "word"),
        Column("Label before → now" if status == "resolved" else "Given → predicted"),
        Column("Rank before → now", "number"),
        Column("Harm before → now", "number"),
    ]
    if status != "new":
        columns.append(Column("Audits in a row", "number"))
    rows = []
    for row in own.head(ROWS).iter_rows(named=True):
        labels = (
            (row["label_before"], row["label"])
            if status == "resolved"
            else (row["label"], row["predicted_label"])
        )
        cells = [
            row["example_id"],
            MISSING if row["change"] == "unchanged" else row["change"],
            " → ".join(MISSING if label is None else str(label) for label in labels),
            f"{_count(row['rank_before'])} → {_count(row['rank'])}",
            f"{_harm(row['harm_before'])} → {_harm(row['harm'])}",
        ]
        if status != "new":
            cells.append(format_count(row["audits_suspected"]))
        rows.append(cells)
    note = f"All are in {FULL_TABLE}, with status {status}."
    if own.height > ROWS:
        note = f"The first {ROWS} of {format_noun(own.height, 'row')}. {note}"
    return Table(title, tuple(columns), rows, note)


def _note(count: int) -> str:
    return f"The first {ROWS} of {format_count(count)}." if count > ROWS else ""


def _count(value: int | None) -> str:
    return MISSING if value is None else format_count(value)


def _harm(value: Any) -> str:
    return format_number(value, signed=True)

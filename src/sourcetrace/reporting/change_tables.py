"""Tables of the section on the audit before: suspects, classes, layers, the last audits."""

from collections.abc import Sequence
from typing import Any

import polars as pl

from sourcetrace.audit.comparison.summary import AuditPoint, Comparison
from sourcetrace.formats import MISSING, format_count, format_noun, format_number, format_share
from sourcetrace.reporting.changes import format_correlation, format_moment
from sourcetrace.reporting.tables import Columns, Table, given_and_predicted

_ROWS = 12
_FULL_TABLE = "data/08_reporting/audit_comparison.parquet"

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
        if own.is_empty():
            continue
        now = "label" if status == "resolved" else "predicted_label"
        given = "label_before" if status == "resolved" else "label"
        note = f"All are in {_FULL_TABLE}, with status {status}."
        if own.height > _ROWS:
            note = f"The first {_ROWS} of {format_noun(own.height, 'row')}. {note}"
        shown = own.head(_ROWS).with_columns(given_label=given, predicted_label=now)
        columns = dict(_SUSPECT)
        if status == "resolved":
            columns = {
                title.replace("Given → predicted", "Label before → now"): column
                for title, column in columns.items()
            }
        if status == "new":
            del columns["Audits in a row"]
        tables.append(Table.of(title, columns, shown.iter_rows(named=True), note))
    return tables


def drift_tables(found: Comparison) -> list[Table]:
    """Return the labels whose order by harm, and the layers whose curvature changed most."""
    tables = []
    if classes := found.scores.classes:
        columns: Columns = {
            "Given label": ("text", lambda one: one.label),
            "Examples": ("number", lambda one: format_count(one.examples)),
            "Rank correlation of harm": (
                "number",
                lambda one: format_correlation(one.rank_correlation),
            ),
        }
        title = "Scores by label, lowest agreement first"
        tables.append(Table.of(title, columns, classes[:_ROWS], _note(len(classes))))
    if layers := found.curvature.layers:
        columns = {
            "Layer": ("code", lambda one: one.layer),
            "Segment": ("number", lambda one: format_count(one.segment)),
            "Eigenvalues moved by": ("number", lambda one: f"{format_number(10**one.distance)}×"),
            "Trace is now": (
                "number",
                lambda one: (
                    MISSING if one.trace_ratio is None else f"{format_number(one.trace_ratio)}×"
                ),
            ),
        }
        note = (
            f"{_note(len(layers))} Moved by: the mean factor between the quantiles of both "
            "spectra; 1 where they are equal."
        )
        title = "Curvature by layer, farthest first"
        tables.append(Table.of(title, columns, layers[:_ROWS], note.strip()))
    return tables


def history_table(points: Sequence[AuditPoint]) -> Table:
    """Return the last audits, the newest first."""
    return Table.of(
        "The last audits, newest first",
        {
            "Audit": ("word", lambda p: format_moment(p.at) if p.at else "this audit"),
            "Gate": ("word", lambda p: p.outcome),
            "Examples": ("number", lambda p: format_count(p.training_examples)),
            "Suspects": ("number", lambda p: format_share(p.suspect_share)),
            "Harmful": ("number", lambda p: format_share(p.harmful_share)),
            "Mean query loss": ("number", lambda p: format_number(p.mean_query_loss)),
            "Trust (LDS)": ("number", lambda p: format_correlation(p.trust_lds)),
            "New": ("number", lambda p: _count(p.new)),
            "Resolved": ("number", lambda p: _count(p.resolved)),
            "Persisting": ("number", lambda p: _count(p.persisting)),
            "Rank correlation": ("number", lambda p: format_correlation(p.rank_correlation)),
        },
        reversed(points),
        f"{MISSING}: not measured, or no audit before it. Trust is measured by a verification.",
    )


def _note(count: int) -> str:
    return f"The first {_ROWS} of {format_count(count)}." if count > _ROWS else ""


def _count(value: int | None) -> str:
    return MISSING if value is None else format_count(value)


def _before_and_now(row: dict[str, Any], name: str) -> str:
    before, now = row[f"{name}_before"], row[name]
    if name == "rank":
        return f"{_count(before)} → {_count(now)}"
    return f"{format_number(before, signed=True)} → {format_number(now, signed=True)}"


_SUSPECT: Columns = {
    "Example": ("code", lambda r: r["example_id"]),
    "What was done": ("word", lambda r: MISSING if r["change"] == "unchanged" else r["change"]),
    "Given → predicted": ("text", given_and_predicted),
    "Rank before → now": ("number", lambda r: _before_and_now(r, "rank")),
    "Harm before → now": ("number", lambda r: _before_and_now(r, "harm")),
    "Audits in a row": ("number", lambda r: format_count(r["audits_suspected"])),
}

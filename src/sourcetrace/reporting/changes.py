"""What changed since the audit before: in a sentence, and in tables of the page's section on it."""

from dataclasses import dataclass
from typing import Any

import polars as pl

from sourcetrace.audit.comparison.summary import AuditPoint, Comparison
from sourcetrace.formats import MISSING, format_count, format_moment, format_noun
from sourcetrace.reporting.tables import Columns, Table

_ROWS = 12
_FULL_TABLE = "data/08_reporting/audit_comparison.parquet"

_TITLES = {
    "new": "New suspects, most suspicious first",
    "persisting": "Persisting suspects, most suspicious first",
    "resolved": "Resolved suspects, by their rank in the audit before",
    "dropped_out": "No longer suspects though nothing was done, by their rank in the audit before",
}


@dataclass(frozen=True)
class ComparedAudit:
    """An audit set beside those before it.

    Attributes:
        found: What changed since the audit before.
        examples: `schemas.AuditComparison`, of suspects alone.
        now: The audit's own place in the trends.
    """

    found: Comparison
    examples: pl.DataFrame
    now: AuditPoint

    @property
    def scores_digest(self) -> str:
        """SHA-256 of the audit's scores."""
        return self.found.scores_digest

    @property
    def points(self) -> tuple[AuditPoint, ...]:
        """The audits in the trends, the oldest first."""
        return (*self.found.earlier, self.now)

    def suspect_tables(self, review_list: pl.DataFrame) -> list[Table]:
        """Return the first new, persisting and resolved suspects, as far as there are any."""
        predicted = review_list.select("example_id", "predicted_label", "rank")
        rows = self.examples.join(
            predicted, on=["example_id", "rank"], how="left", maintain_order="left"
        )
        tables = []
        for status, title in _TITLES.items():
            resolved = status in {"resolved", "dropped_out"}
            own = rows.filter(status=status).sort("rank_before" if resolved else "rank")
            if own.is_empty():
                continue
            labels = ("label_before", "label") if resolved else ("label", "predicted_label")
            columns: dict[str, Any] = {
                "Example": ("code", "example_id"),
                "What was done": (
                    "word",
                    lambda r: {"unchanged": r["decision"]}.get(r["change"], r["change"]),
                ),
                "Label before → now" if resolved else "Given → predicted": (
                    "text",
                    lambda r, labels=labels: tuple(r[label] for label in labels),
                ),
                "Rank before → now": ("count", lambda r: (r["rank_before"], r["rank"])),
                "Harm before → now": ("signed", lambda r: (r["harm_before"], r["harm"])),
            }
            if own["label"].is_null().all() and own["label_before"].is_null().all():
                del columns["Label before → now" if resolved else "Given → predicted"]
            if status != "new":
                columns["Audits in a row"] = ("count", "audits_suspected")
            note = f"All are in {_FULL_TABLE}, with status {status}."
            if own.height > _ROWS:
                note = f"The first {_ROWS} of {format_noun(own.height, 'row')}. {note}"
            tables.append(Table.of(title, columns, own.head(_ROWS).iter_rows(named=True), note))
        return tables

    def drift_tables(self) -> list[Table]:
        """Return the labels whose order by harm, and the layers whose curvature changed most."""
        classes, layers = self.found.scores.classes, self.found.curvature.layers
        of_classes: Columns = {
            "Given label": ("text", "label"),
            "Examples": ("count", "examples"),
            "Rank correlation of harm": ("correlation", "rank_correlation"),
        }
        of_layers: Columns = {
            "Layer": ("code", "layer"),
            "Segment": ("count", "segment"),
            "Eigenvalues moved by": ("factor", lambda one: 10**one.distance),
            "Trace is now": ("factor", "trace_ratio"),
        }
        tables = []
        if classes:
            title = "Scores by label, lowest agreement first"
            tables.append(Table.of(title, of_classes, classes[:_ROWS], _first(len(classes))))
        if layers:
            title = "Curvature by layer, farthest first"
            note = (
                f"{_first(len(layers))} Moved by: the mean factor between the quantiles of both "
                "spectra; 1 where they are equal."
            )
            tables.append(Table.of(title, of_layers, layers[:_ROWS], note.strip()))
        return tables

    def history_table(self) -> Table:
        """Return the last audits, the newest first."""
        columns: Columns = {
            "Audit": ("word", lambda p: format_moment(p.at) if p.at else "this audit"),
            "Gate": ("word", "outcome"),
            "Examples": ("count", "training_examples"),
            "Suspects": ("share", "suspect_share"),
            "Harmful": ("share", "harmful_share"),
            "Mean query loss": ("number", "mean_query_loss"),
            "Trust (LDS)": ("correlation", "trust_lds"),
            "New": ("count", "new"),
            "Resolved": ("count", "resolved"),
            "Persisting": ("count", "persisting"),
            "Rank correlation": ("correlation", "rank_correlation"),
        }
        note = (
            f"{MISSING}: not measured, or no audit before it. Trust is measured by a verification."
        )
        return Table.of("The last audits, newest first", columns, reversed(self.points), note)


def _first(count: int) -> str:
    return f"The first {_ROWS} of {format_count(count)}." if count > _ROWS else ""

"""Small audits for the comparison's tests."""

from dataclasses import replace

import polars as pl

from sourcetrace.audit.comparison.changes import compare_examples
from sourcetrace.audit.comparison.summary import (
    AuditPoint,
    ClassDrift,
    Comparison,
    CurvatureDrift,
    DataDrift,
    LayerDrift,
    ScoreDrift,
    SuspectDrift,
)

COLUMNS = {
    "example_id": pl.String,
    "label": pl.String,
    "input_digest": pl.String,
    "target_digest": pl.String,
    "rank": pl.Int64,
    "harm": pl.Float64,
    "suspect": pl.Boolean,
    "audits_suspected": pl.Int64,
    "decision": pl.String,
}


def audit(*rows, kept=()):
    """Return kept examples of rows (id, content, label, suspect); the first harms most.

    A content of None is one that is not known. Of some ids it was decided that they are kept.
    """
    return pl.DataFrame(
        [
            {
                "example_id": name,
                "label": label,
                "input_digest": content,
                "target_digest": None,
                "rank": place + 1,
                "harm": float(len(rows) - place),
                "suspect": suspect,
                "audits_suspected": int(suspect),
                "decision": "keep" if name in kept else None,
            }
            for place, (name, content, label, suspect) in enumerate(rows)
        ],
        schema=COLUMNS,
    )


def compared(now, before):
    """Return id -> (status, change)."""
    table = compare_examples(now, before)
    return {
        name: (status, change)
        for name, status, change in table.select("example_id", "status", "change").iter_rows()
    }


def first_audit():
    """Return what the first audit of 40 examples is told."""
    return Comparison(scores_digest="abc", method="source", training_examples=40, suspects_now=6)


def second_audit(**changes):
    """Return what an audit with one before it is told, everything in it changed."""
    values = {
        "previous_at": "2026-11-25T02:00:09+00:00",
        "previous_scores_digest": "def",
        "previous_method": "source",
        "suspects": SuspectDrift(
            new=12,
            persisting=61,
            resolved=30,
            new_by={"added": 2, "unchanged": 10},
            resolved_by={"relabelled": 25, "removed": 5},
        ),
        "scores": ScoreDrift(35, 0.93, (ClassDrift("2", 20, 0.4), ClassDrift("0", 20, 0.99))),
        "curvature": CurvatureDrift(
            (LayerDrift(2, "head", 0.4, 0.5), LayerDrift(1, "head", 1.1, 0.02)), 2, 2
        ),
        "data": DataDrift("content", False, True, 2, 5, 25, 1, 3, 4),
        "earlier": (point(outcome="fail"), point(outcome="warn", trust_lds=0.5)),
    }
    return replace(first_audit(), **values | changes)


def point(**changes):
    """Return an audit of the trends."""
    values = {
        "at": "2026-11-24T02:00:09+00:00",
        "outcome": "pass",
        "training_examples": 40,
        "suspect_share": 0.15,
        "harmful_share": 0.05,
        "mean_query_loss": 0.3,
        "trust_lds": None,
    }
    return AuditPoint(**values | changes)

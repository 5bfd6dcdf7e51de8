"""Small audits for the comparison's tests."""

import polars as pl

from sourcetrace.comparison.changes import compare_examples

COLUMNS = {
    "example_id": pl.String,
    "label": pl.String,
    "input_digest": pl.String,
    "target_digest": pl.String,
    "rank": pl.Int64,
    "harm": pl.Float64,
    "suspect": pl.Boolean,
    "audits_suspected": pl.Int64,
}


def audit(*rows):
    """Return kept examples of rows (id, content, label, suspect); the first harms most.

    A content of None is one that is not known.
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

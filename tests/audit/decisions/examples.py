"""A review list that decisions can be about, and the files that people hand in."""

import polars as pl

from sourcetrace.audit.decisions.check import Audited
from sourcetrace.audit.decisions.content import content_digests
from sourcetrace.audit.decisions.spreadsheet import COLUMNS, read_decisions_file
from sourcetrace.schemas import DecisionLog


def examples(labels, *, contents=None, flagged=0):
    """Return what decisions need of a review list.

    Args:
        labels: Example id -> its given label.
        contents: Example id -> what its inputs are, where that is not its id.
        flagged: How many of the first are suggested for a look.
    """
    contents = contents or {}
    digests = pl.DataFrame(
        {
            "example_id": list(labels),
            "label": list(labels.values()),
            "input_digest": [f"{contents.get(name, name).encode().hex():0>32}" for name in labels],
            "target_digest": [None] * len(labels),
        },
        schema_overrides={"target_digest": pl.String, "label": pl.String},
    )
    table = content_digests(digests).with_columns(
        given_label=digests["label"],
        index=pl.int_range(pl.len(), dtype=pl.Int64),
        given_label_probability=pl.lit(0.5),
        predicted_label=pl.lit("8"),
        suggested_action=pl.when(pl.int_range(pl.len()) < flagged)
        .then(pl.lit("relabel"))
        .otherwise(pl.lit("keep")),
        decision=pl.lit(None, pl.String),
    )
    return table


def written(table, *rows, ending="\n", separator=",", columns=COLUMNS):
    """Return a file: rows of an id, a decision, and further columns by name."""
    digests = dict(table.select("example_id", "content_digest").iter_rows())
    lines = [separator.join(columns)]
    for name, decision, others in rows:
        row = {
            "example_id": name,
            "content_digest": digests.get(name, "0" * 40),
            "decision": decision,
            "scores_digest": "aa",
            **others,
        }
        lines.append(separator.join(row.get(column, "") for column in columns))
    return ending.join([*lines, ""]).encode()


def decide(table, *rows, log=None, labels="389", by="Ann", at="2026-11-29T10:00:00+00:00", **how):
    """Return the log after a file was applied."""
    log = DecisionLog.frame() if log is None else log
    content = written(table, *rows, **how)
    new = Audited(table, frozenset(labels), log).new_decisions(
        read_decisions_file(content, called="file.csv").filter(pl.col("decision") != ""),
        called="file.csv",
        decided_by=by,
        decided_at=at,
    )
    return pl.concat([log, DecisionLog.validate(new)])

"""What people decide about training examples: the file they hand in, and the log of all files."""

import pandera.polars as pa

from sourcetrace.schemas.table import Table

DECISIONS = ("relabel", "remove", "keep", "unsure")


class DecisionsFile(Table):
    """One row an example, in a CSV file; when it is read, further columns do no harm.

    Attributes:
        content_digest: As in the review list.
        decision: One of `DECISIONS`; empty where nobody has decided yet.
        new_label: Of an example to relabel.
        note: Anything.
        scores_digest: Of the audit that was looked at.
    """

    example_id: str
    content_digest: str = pa.Field(str_matches="^[0-9a-f]{40}$")
    decision: str | None = pa.Field(nullable=True, isin=DECISIONS)
    new_label: str | None = pa.Field(nullable=True)
    note: str | None = pa.Field(nullable=True)
    scores_digest: str


class DecisionLog(DecisionsFile):
    """One row a decision, the oldest first; the latest about a content counts.

    Attributes:
        given_label: What the example was called when it was decided on.
        decided_by: Who.
        decided_at: When it was applied, UTC, ISO 8601.
    """

    decision: str = pa.Field(isin=DECISIONS)
    given_label: str | None = pa.Field(nullable=True)
    decided_by: str
    decided_at: str

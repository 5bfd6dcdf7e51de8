"""What can be wrong with an example, as one table."""

import pandera.polars as pa

from sourcetrace.schemas.table import Table

ISSUES = (
    "label",
    "conflicting_duplicate",
    "leakage",
    "dominates_class",
    "unsupported_slice",
    "forgotten",
)


class ExampleIssues(Table):
    """One row an example and issue for which there is anything to say, by issue, the worst first.

    Attributes:
        example_id: A training example; of unsupported_slice a query.
        issue: One of `ISSUES`.
        score: 0 for none, 1 for the strongest.
        flagged: Whether the score reaches the issue's threshold, `report.issues`.
        related: The other example of a pair, the query that leaks, or the slice of the query.
    """

    example_id: str
    issue: str = pa.Field(isin=ISSUES)
    score: float = pa.Field(gt=0, le=1)
    flagged: bool
    related: str | None = pa.Field(nullable=True)

    class Config:
        """One row a pair."""

        unique = ("example_id", "issue")

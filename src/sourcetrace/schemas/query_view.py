"""Tables of single queries: which training examples made them so, and where from."""

import pandera.polars as pa
import polars as pl

from sourcetrace.schemas.table import Table

SIDES = ("helper", "harmer")
KINDS = ("stage", "segment")


class QueryStrongest(Table):
    """The strongest training examples of every query; a query may have fewer, or none.

    Attributes:
        side: One of `SIDES`; without a helper the query would be measured worse.
        rank: From 1, within the query and the side.
        score: Predicted change of the query's measurement when the example is removed.
    """

    query_id: str
    example_id: str
    side: str = pa.Field(isin=SIDES)
    rank: int = pa.Field(ge=1)
    score: float

    class Config:
        """One example a place."""

        unique = ("query_id", "side", "rank")


class QueryShares(Table):
    """Where a query's scores come from; the shares of a kind add up to 1, or are all 0.

    Attributes:
        kind: One of `KINDS`: of the training examples, or of training.
        name: The stage, several joined by ", ", or the segment, "2 (narrow)".
        share: Of the scores' summed sizes; by segment of those of `QueryContributions`.
    """

    query_id: str
    kind: str = pa.Field(isin=KINDS)
    name: str
    share: float = pa.Field(ge=0, le=1)

    class Config:
        """One row a name."""

        unique = ("query_id", "kind", "name")


class QueryHelpers(Table):
    """One row a query: how many training examples share in helping it.

    Attributes:
        helpers: Their effective number: (Σ h)² / Σ h² of the helpful scores h, n where n examples
            help alike, 0 where none does.
    """

    query_id: str = pa.Field(unique=True)
    helpers: float = pa.Field(ge=0)


class QueryContributions(Table):
    """One row a segment and training example, of up to 1,024 that are drawn by their names.

    Attributes:
        absolute_scores: One value a query, in their order: the size of what the segment gives to
            the example's score.
    """

    example_id: str
    segment: int = pa.Field(ge=1)
    absolute_scores: pl.Array

"""The list a person works through."""

import pandera.polars as pa
import polars as pl

from sourcetrace.schemas.table import Table

ACTIONS = ("relabel", "check", "keep")


def is_suspect() -> pl.Expr:
    """Return the condition for a row of the list that a person should look at."""
    return pl.col("suggested_action") != "keep"


class ReviewList(Table):
    """One row a training example, the most harmful first.

    Attributes:
        rank: From 1.
        stage: Its stage of training; several are joined by ", ".
        harm: Σ over queries of how much better their measurement is predicted to get when the
            example is removed, in the measurement's units; the list's order.
        harm_error: Standard error of harm, over checkpoints and queries, in harm's units.
        sign_stable: Whether harm is more than two standard errors away from 0.
        self_influence_rank: Within the given label (within all, where there is none), from 1
            for the largest.
        total_query_loss_influence: Predicted change of the queries' summed loss on removal;
            below 0 the queries would gain.
        suggested_action: One of `ACTIONS`.
        reason: Why, in plain words.
    """

    rank: int = pa.Field(ge=1, unique=True)
    example_id: str = pa.Field(unique=True)
    stage: str
    given_label: str | None = pa.Field(nullable=True)
    predicted_label: str | None = pa.Field(nullable=True)
    given_label_probability: float | None = pa.Field(nullable=True, ge=0, le=1)
    loss: float
    self_influence: float
    self_influence_rank: int = pa.Field(ge=1)
    harm: float
    harm_error: float = pa.Field(ge=0)
    sign_stable: bool
    total_query_loss_influence: float
    queries_harmed: int = pa.Field(ge=0)
    suggested_action: str = pa.Field(isin=ACTIONS)
    reason: str

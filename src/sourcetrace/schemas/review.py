"""The list a person works through."""

import pandera.polars as pa
import polars as pl

from sourcetrace.schemas.decisions import DECISIONS
from sourcetrace.schemas.table import Table, beside

ACTIONS = ("remove", "relabel", "review", "keep")

_JUDGED = ("given_label", "predicted_label", "given_label_probability", "harm", "sign_stable")
_SUGGESTED = ("suspicion", "suggested_action", "decision")

_MOST_CLASSES = 12
"""Of a task that gives labels no probability; more numbers than these are values."""


def is_flagged() -> pl.Expr:
    """Return the condition for a row of the list with a suggestion, whatever people say of it."""
    return pl.col("suggested_action") != "keep"


def is_suspect() -> pl.Expr:
    """Return the condition for a row of the list that a person should look at.

    What somebody decided to keep is none.
    """
    return is_flagged() & pl.col("decision").ne_missing("keep")


def open_action() -> pl.Expr:
    """Return, as `action`, what is still suggested: keep, where somebody decided so."""
    return pl.when(is_suspect()).then("suggested_action").otherwise(pl.lit("keep")).alias("action")


def labels_are_numbers(table: pl.DataFrame) -> bool:
    """Return whether labels are numbers of many values, as a regression's, rather than classes.

    Args:
        table: With given_label and given_label_probability.
    """
    given = table["given_label"].drop_nulls()
    has_classes = table["given_label_probability"].is_not_null().any()
    if has_classes or given.n_unique() <= _MOST_CLASSES:
        return False
    return not given.cast(pl.Float64, strict=False).has_nulls()


def in_order_of(train_table: pl.DataFrame, review_list: pl.DataFrame) -> pl.DataFrame:
    """Return what a list says of labels, harm and suspicion, in the training table's order.

    Of examples that it does not have, nothing speaks.

    Args:
        train_table: `schemas.TrainTable`.
        review_list: `ReviewList`.
    """
    listed = (
        review_list.select("index", "example_id", *_JUDGED, *_SUGGESTED).sort("index").drop("index")
    )
    return beside(train_table.select("example_id"), listed).with_columns(
        pl.col("suggested_action").fill_null("keep"),
        pl.col("harm", "suspicion").fill_null(0.0),
        pl.col("sign_stable").fill_null(value=False),
    )


def rounded_labels(table: pl.DataFrame) -> pl.DataFrame:
    """Return the table with given labels of four digits, as predicted ones, where they are numbers.

    Args:
        table: See `labels_are_numbers`.
    """
    if not labels_are_numbers(table):
        return table
    labels = (None if one is None else f"{float(one):.4g}" for one in table["given_label"])
    return table.with_columns(given_label=pl.Series(labels, dtype=pl.String))


class ReviewList(Table):
    """One row a training example, the most suspicious first.

    Behind these stand the further columns of the task's train_table().

    Attributes:
        rank: From 1.
        index: Its row in train_table() and its number in train_examples(), from 0.
        stage: Its stage of training; several are joined by ", ".
        harm: Σ over queries of how much better their measurement is predicted to get when the
            example is removed, in the measurement's units.
        harm_error: Standard error of harm, over checkpoints and queries, in harm's units.
        sign_stable: Whether harm is more than two standard errors away from 0.
        self_influence_rank: Within the given label (within all, where there is none), from 1
            for the largest.
        total_query_loss_influence: Predicted change of the queries' summed loss on removal;
            below 0 the queries would gain.
        suspicion: How strongly the signals together say that something is wrong with the example,
            from 0 to 1; the list's order, and no probability. Of a task without labels, the
            rank of harm.
        false_discovery: Estimated share of right labels among the examples that look as bad.
        error_probability: Probability that the label is wrong, calibrated on decisions; null
            until there are some.
        suggested_action: One of `ACTIONS`.
        suggested_label: The label to give it instead, where the action is relabel.
        reason: Why, in plain words.
        content_digest: Of its inputs and its given label, which decisions are about.
        decision: What somebody decided about this very content before; one of `DECISIONS`.
    """

    rank: int = pa.Field(ge=1, unique=True)
    example_id: str = pa.Field(unique=True)
    index: int = pa.Field(ge=0, unique=True)
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
    suspicion: float = pa.Field(ge=0, le=1)
    false_discovery: float = pa.Field(ge=0, le=1)
    error_probability: float | None = pa.Field(nullable=True, ge=0, le=1)
    suggested_action: str = pa.Field(isin=ACTIONS)
    suggested_label: str | None = pa.Field(nullable=True)
    reason: str
    content_digest: str = pa.Field(str_matches="^[0-9a-f]{40}$")
    decision: str | None = pa.Field(nullable=True, isin=DECISIONS)

    class Config:
        """With the task's own columns."""

        strict = False

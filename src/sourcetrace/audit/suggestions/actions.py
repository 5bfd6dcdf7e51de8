"""What to do about an example: remove it, relabel it, look at it, or keep it."""

import polars as pl

_STRONGEST = 0.1
"""Self-influence counts as high within this share of the given label's examples."""


def suggest_actions(
    table: pl.DataFrame, *, false_discovery_rate: float, relabel_probability: float
) -> pl.DataFrame:
    """Return the table with suggested_action and suggested_label.

    A suspect gets another label where the model is sure of one without the example itself, unless
    the queries would certainly lose by a removal. It is to be removed where there is no such
    label, its removal certainly helps and the model had to learn it by heart: never because of
    disagreement alone. Everything else is a person's to judge.

    Args:
        table: Columns of `schemas.ReviewList` and `schemas.Suspicions`.
        false_discovery_rate: What is a suspect; see `ReportParameters`.
        relabel_probability: See `ReportParameters`.
    """
    suspect = pl.col("false_discovery") <= false_discovery_rate
    if table["given_label"].is_null().all():
        suspect &= pl.col("sign_stable") & (pl.col("harm") > 0)
    loses = pl.col("sign_stable") & (pl.col("harm") < 0)
    gains = pl.col("sign_stable") & (pl.col("harm") > 0)
    other = pl.col("other_label").is_not_null() & (
        pl.col("corrected_probability") < relabel_probability
    )
    by_heart = pl.col("self_influence_rank") <= _STRONGEST * pl.len().over(class_of_example())
    action = (
        pl.when(suspect & other & ~loses)
        .then(pl.lit("relabel"))
        .when(suspect & gains & by_heart & pl.col("given_label").is_not_null() & ~other)
        .then(pl.lit("remove"))
        .when(suspect)
        .then(pl.lit("review"))
        .otherwise(pl.lit("keep"))
    )
    return table.with_columns(suggested_action=action).with_columns(
        suggested_label=pl.when(suggested_action="relabel").then("other_label")
    )


def class_of_example() -> pl.Expr:
    """Return the given label where it is a class; a regression's target is none."""
    return pl.when(pl.col("given_label_probability").is_not_null()).then("given_label")

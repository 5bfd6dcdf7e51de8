"""The issues of an audit put together, each held against its own threshold."""

from collections.abc import Mapping

import polars as pl

from sourcetrace.schemas.issues import ISSUES, ExampleIssues


def issue_table(found: Mapping[str, pl.DataFrame], thresholds: Mapping[str, float]) -> pl.DataFrame:
    """Return `schemas.ExampleIssues`; what has no score, or one of 0, is left out.

    Args:
        found: Issue -> example_id, score and related.
        thresholds: Issue -> the score from which on it is flagged.
    """
    tables = [
        found[name].select(
            "example_id",
            issue=pl.lit(name),
            score=pl.col("score").cast(pl.Float64).clip(0, 1),
            flagged=pl.col("score") >= thresholds[name],
            related="related",
        )
        for name in ISSUES
    ]
    return pl.concat(
        one.filter(pl.col("score") > 0).sort(["score", "example_id"], descending=[True, False])
        for one in tables
    ).select(list(ExampleIssues.columns()))

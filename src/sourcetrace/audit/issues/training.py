"""Issues of training examples that need no scores: example_id, score in [0, 1] and related."""

from collections.abc import Sequence

import polars as pl

from sourcetrace.audit.groups.near_duplicates import cluster_of
from sourcetrace.schemas.review import is_suspect, labels_are_numbers
from sourcetrace.schemas.table import beside


def label_issues(review_list: pl.DataFrame) -> pl.DataFrame:
    """Return the suspicion of each suspect that has a label; without one it is the harm's rank.

    Args:
        review_list: `schemas.ReviewList`.
    """
    doubted = is_suspect() & pl.col("given_label").is_not_null()
    return review_list.select(
        "example_id", score=pl.when(doubted).then("suspicion"), related=_nothing()
    )


def conflicting_duplicates(pairs: pl.DataFrame, review_list: pl.DataFrame) -> pl.DataFrame:
    """Return how near an example is to the nearest that has another label.

    Labels that are numbers are others where they are a standard deviation apart.

    Args:
        pairs: As `audit.groups.near_duplicates.near_pairs` returns them.
        review_list: `schemas.ReviewList`.
    """
    own = pl.col("example_id")
    labels = review_list.select("example_id", label="given_label").drop_nulls("label")
    other = pl.col("label") != pl.col("label_right")
    if labels_are_numbers(review_list):
        labels = labels.with_columns(pl.col("label").cast(pl.Float64))
        other = (pl.col("label") - pl.col("label_right")).abs() > labels["label"].std()
    paired = pl.concat([pairs["first"], pairs["second"]]).implode()
    listed = review_list.filter(own.is_in(paired)).select(own)
    # Of equal examples only the first has pairs, which are those of all of them.
    equal = cluster_of(pairs.filter(pl.col("similarity") >= 1), listed["example_id"])
    sets = listed.with_columns(set=equal.fill_null(listed["example_id"]))
    members = sets.join(labels, on="example_id", maintain_order="left")
    # Where any label of a set is another one, its least or its greatest is.
    ends = pl.concat(
        members.sort("label", maintain_order=True, descending=down).unique(
            "set", keep="first", maintain_order=True
        )
        for down in (False, True)
    )
    themselves = sets.select(first="set", second="set", similarity=pl.lit(1.0)).unique()
    between = pairs.with_columns(
        pl.col("first", "second").replace_strict(sets["example_id"], sets["set"])
    )
    near = pl.concat([between, themselves]).group_by("first", "second").agg(pl.max("similarity"))
    return _strongest(
        members.join(near, left_on="set", right_on="first")
        .join(ends, left_on="second", right_on="set")
        .filter(other)
        .select("similarity", first="example_id", second="example_id_right")
    )


def leaking_examples(near: pl.DataFrame) -> pl.DataFrame:
    """Return how near an example is to the nearest query.

    Args:
        near: As `audit.groups.near_duplicates.near_queries` returns them.
    """
    return _strongest(near)


def forgotten_examples(
    example_signals: pl.LazyFrame, checkpoint_manifest: pl.DataFrame, labels: pl.DataFrame
) -> pl.DataFrame:
    """Return how much of its probability a label lost that was predicted once and is no more.

    Where there are no probabilities, it is the share of the earlier checkpoints that predicted it.
    Of several runs it is their mean.

    Args:
        example_signals: `schemas.ExampleSignals`, a run's checkpoints in the order of training.
        checkpoint_manifest: `schemas.CheckpointManifest`.
        labels: example_id and label.
    """
    run_of = dict(checkpoint_manifest.select("checkpoint_id", "run").iter_rows())
    runs: dict[str, list[str]] = {}
    points = example_signals.lazy().select(pl.col("checkpoint_id").unique(maintain_order=True))
    for point in points.collect()["checkpoint_id"]:
        runs.setdefault(run_of[point.split("+")[0]], []).append(point)
    lost = [_lost(example_signals, points, labels) for points in runs.values()]
    return labels.select("example_id", score=sum(lost) / len(lost), related=_nothing())


def _lost(example_signals: pl.LazyFrame, points: Sequence[str], labels: pl.DataFrame) -> pl.Series:
    """Return what each label lost in a run, a point at a time: all at once are many rows."""
    right = (pl.col("predicted_label") == pl.col("label")).fill_null(value=False)
    probability = pl.col("given_label_probability")
    table = labels.select("example_id", "label", best=pl.lit(None, pl.Float64), known=0, seen=0)
    for point in points:
        rows = (
            example_signals.lazy()
            .filter(checkpoint_id=point)
            .select("example_id", "predicted_label", "given_label_probability")
        )
        table = beside(
            table.drop("predicted_label", "given_label_probability", strict=False), rows.collect()
        )
        if point != points[-1]:
            table = table.with_columns(
                best=pl.max_horizontal("best", pl.when(right).then(probability)),
                known=pl.col("known") + right,
                seen=pl.col("seen") + pl.col("predicted_label").is_not_null(),
            )
    wrong = pl.col("predicted_label").is_not_null() & ~right
    share = (pl.col("best") - probability).fill_null(pl.col("known") / pl.col("seen"))
    score = pl.when(wrong & (pl.col("known") > 0)).then(share).otherwise(0.0)
    return table.select(score.alias("score"))["score"]


def _strongest(pairs: pl.DataFrame) -> pl.DataFrame:
    """Return each first example with its nearest second one."""
    nearest = pairs.sort("similarity", "second", descending=[True, False])
    return nearest.unique("first", keep="first", maintain_order=True).select(
        example_id="first", score="similarity", related="second"
    )


def _nothing() -> pl.Expr:
    return pl.lit(None, dtype=pl.String)

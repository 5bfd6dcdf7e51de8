"""What became of every example and of every suspect since the audit before."""

import polars as pl

from sourcetrace.audit.comparison.pairing import pair_examples
from sourcetrace.schemas import AuditComparison
from sourcetrace.schemas.review import is_suspect


def kept_examples(example_digests: pl.LazyFrame, review_list: pl.DataFrame) -> pl.DataFrame:
    """Return what a later audit needs of this one's examples, in their order.

    Examples whose id and label are not in both tables are left out: those are of different audits.

    Args:
        example_digests: `schemas.ExampleDigests`.
        review_list: `schemas.ReviewList`.
    """
    listed = review_list.lazy().select(
        "example_id",
        "rank",
        "harm",
        "decision",
        label="given_label",
        suspect=is_suspect(),
    )
    found = example_digests.lazy().join(
        listed,
        on=["example_id", "label"],
        how="inner",
        nulls_equal=True,
        validate="1:1",
        maintain_order="left",
    )
    return found.collect()


def compare_examples(now: pl.DataFrame, before: pl.DataFrame) -> pl.DataFrame:
    """Return `schemas.AuditComparison`: this review list's order, then what was removed.

    Args:
        now: What `kept_examples` returns.
        before: The same of the audit before, with `audits_suspected`.
    """
    joined = (
        pair_examples(now, before)
        .join(now.drop("input_digest").with_row_index("place"), on="place", how="left")
        .join(
            before.drop("input_digest")
            .with_row_index("place")
            .rename(lambda name: f"{name}_before"),
            on="place_before",
            how="left",
        )
    )
    suspect = pl.col("suspect").fill_null(value=False)
    suspect_before = pl.col("suspect_before").fill_null(value=False)
    # Whether a label can be compared where one audit did not know it by its content.
    other_target = (pl.col("target_digest") != pl.col("target_digest_before")).fill_null(
        value=False
    )
    change = (
        pl.when(pl.col("place_before").is_null())
        .then(pl.lit("added"))
        .when(pl.col("place").is_null())
        .then(pl.lit("removed"))
        .when(pl.col("label").ne_missing(pl.col("label_before")) | other_target)
        .then(pl.lit("relabelled"))
        .when(~pl.col("same_content"))
        .then(pl.lit("edited"))
        .otherwise(pl.lit("unchanged"))
    )
    status = (
        pl.when(suspect & suspect_before)
        .then(pl.lit("persisting"))
        .when(suspect)
        .then(pl.lit("new"))
        .when(suspect_before & ((change != "unchanged") | (pl.col("decision") == "keep")))
        .then(pl.lit("resolved"))
        .when(suspect_before)
        .then(pl.lit("dropped_out"))
        .otherwise(pl.lit("unsuspected"))
    )
    suspected_before = pl.col("audits_suspected_before").fill_null(0) * suspect_before
    return (
        joined.with_columns(
            change=change,
            status=status,
            audits_suspected=(
                pl.when(suspect).then(suspected_before + 1).otherwise(suspected_before)
            ).cast(pl.Int64),
            example_id=pl.coalesce("example_id", "example_id_before"),
            id_before="example_id_before",
        )
        .select(list(AuditComparison.columns()))
        .sort("rank", "rank_before", nulls_last=True)
    )


def count_reordered(now: pl.DataFrame, before: pl.DataFrame) -> int:
    """Return how many examples of the same content stand at another place among these.

    Args:
        now: As `pair_examples` takes it.
        before: The same of the audit before.
    """
    shared = pair_examples(now, before).filter(pl.col("same_content")).sort("place")
    # Both are orders of the same rows: where nothing moved, the second follows the first.
    return int((shared["place_before"] != shared["place_before"].sort()).sum())

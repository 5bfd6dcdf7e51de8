"""Groups of suspects, from the review list and the stored scores."""

import polars as pl
from kedro.pipeline import Pipeline

from sourcetrace.audit.groups.near_duplicates import cluster_of, near_pairs, near_queries
from sourcetrace.audit.groups.stand_out import suspect_groups
from sourcetrace.audit.issues.influence import dominating_examples, unsupported_queries
from sourcetrace.audit.issues.table import issue_table
from sourcetrace.audit.issues.training import (
    conflicting_duplicates,
    forgotten_examples,
    label_issues,
    leaking_examples,
)
from sourcetrace.datasets.score_files import ScoreFiles
from sourcetrace.parameters import ReportParameters
from sourcetrace.pipelines.shared.step import step
from sourcetrace.schemas.review import in_order_of


def pair_near_duplicates(
    example_digests: pl.LazyFrame,
    content_sketches: pl.LazyFrame,
    measurement: object,
    report: ReportParameters,
) -> pl.DataFrame:
    """Return pairs of training examples that are the same, or nearly."""
    del measurement  # so that it runs behind the scores, when gradients are not in memory any more
    least = min(report.near_duplicate, report.issues.conflicting_duplicate)
    return near_pairs(example_digests, content_sketches, similarity=least)


def find_groups(
    train_table: pl.DataFrame,
    review_list: pl.DataFrame,
    query_influence: pl.LazyFrame,
    near_duplicate_pairs: pl.DataFrame,
    score_files: ScoreFiles,
    report: ReportParameters,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the groups that hold more suspects than chance, and which suspects they hold."""
    pairs = near_duplicate_pairs.filter(pl.col("similarity") >= report.near_duplicate)
    clusters = cluster_of(pairs, train_table["example_id"])
    scores = score_files.blocks() if score_files.are_kept else ()
    return suspect_groups(train_table, review_list, query_influence, clusters, scores)


def find_issues(
    train_table: pl.DataFrame,
    query_table: pl.DataFrame,
    review_list: pl.DataFrame,
    example_signals: pl.LazyFrame,
    checkpoint_manifest: pl.DataFrame,
    content_sketches: pl.LazyFrame,
    near_duplicate_pairs: pl.DataFrame,
    query_influence: pl.LazyFrame,
    query_helpers: pl.DataFrame,
    report: ReportParameters,
) -> pl.DataFrame:
    """Return what can be wrong with an example beside its label, and its label."""
    thresholds = report.issues.model_dump()
    near = near_queries(content_sketches, similarity=thresholds["leakage"])
    listed = in_order_of(train_table, review_list)
    return issue_table(
        {
            "label": label_issues(listed),
            "conflicting_duplicate": conflicting_duplicates(near_duplicate_pairs, listed),
            "leakage": leaking_examples(near),
            "dominates_class": dominating_examples(query_influence, listed),
            "unsupported_slice": unsupported_queries(query_helpers, query_table),
            "forgotten": forgotten_examples(example_signals, checkpoint_manifest, train_table),
        },
        thresholds,
    )


PIPELINE = Pipeline(
    [
        step(pair_near_duplicates, "near_duplicate_pairs"),
        step(find_groups, ["suspect_groups", "group_suspects"]),
        step(find_issues, "example_issues"),
    ]
)

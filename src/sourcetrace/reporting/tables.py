"""The page's tables: rows of ready text, and a note wherever rows are left out."""

from dataclasses import dataclass
from typing import Literal

import polars as pl

from sourcetrace.formats import (
    MISSING,
    format_bytes,
    format_count,
    format_noun,
    format_number,
    format_share,
    format_with_error,
)
from sourcetrace.reporting.findings import run_count

REVIEW_ROWS = 200
CHECKPOINT_ROWS = 60
PARAMETER_ROWS = 100
FULL_LIST = "data/08_reporting/review_list.csv"

Kind = Literal["text", "word", "number", "code", "path", "action", "sentence"]


@dataclass(frozen=True)
class Column:
    """A column's heading and how its cells look."""

    title: str
    kind: Kind = "text"


@dataclass(frozen=True)
class Table:
    """A table; the first column names the row.

    Attributes:
        label: What a screen reader announces, and the caption.
        columns: [C].
        rows: [R][C], text as shown, not yet escaped.
        note: What is left out and where it is, or nothing.
    """

    label: str
    columns: tuple[Column, ...]
    rows: list[list[str]]
    note: str = ""


def review_table(review_list: pl.DataFrame) -> Table:
    """Return the first rows of the review list."""
    rows = [
        [
            format_count(row["rank"]),
            row["example_id"],
            row["suggested_action"],
            f"{_text(row['given_label'])} → {_text(row['predicted_label'])}",
            format_share(row["given_label_probability"]),
            format_with_error(row["harm"], row["harm_error"]),
            format_count(row["queries_harmed"]),
            format_number(row["total_query_loss_influence"], signed=True),
            format_number(row["loss"]),
            f"{format_number(row['self_influence'])} · {format_count(row['self_influence_rank'])}",
            row["reason"],
        ]
        for row in review_list.head(REVIEW_ROWS).iter_rows(named=True)
    ]
    note = f"The whole list is {FULL_LIST}, one row a training example."
    if review_list.height > REVIEW_ROWS:
        note = (
            f"The first {format_count(REVIEW_ROWS)} of {format_count(review_list.height)} rows; "
            f"the whole list is {FULL_LIST}."
        )
    columns = (
        Column("Rank", "number"),
        Column("Example", "code"),
        Column("Suggested", "action"),
        Column("Given → predicted"),
        Column("P(given)", "number"),
        Column("Harm ± error", "number"),
        Column("Queries harmed", "number"),
        Column("Loss influence", "number"),
        Column("Loss", "number"),
        Column("Self-influence · rank", "number"),
        Column("Reason", "sentence"),
    )
    return Table("Training examples, most harmful first", columns, rows, note)


def checkpoint_table(checkpoint_manifest: pl.DataFrame) -> Table:
    """Return the checkpoints in the order of training, run after run."""
    manifest = checkpoint_manifest.sort("segment", "step")
    shown = manifest
    notes = []
    if manifest.height > CHECKPOINT_ROWS:
        # The end of training matters most: queries are measured there.
        shown = manifest.tail(CHECKPOINT_ROWS)
        notes.append(
            f"The last {format_count(CHECKPOINT_ROWS)} of "
            f"{format_noun(manifest.height, 'checkpoint')}; the checkpoint manifest has all."
        )
    if manifest["parameter_groups"].list.len().max() > 1:  # type: ignore[operator]
        notes.append(
            "Learning rate, momentum, weight decay and step mass are those of the first parameter "
            "group; the checkpoint manifest has every group's."
        )
    rows = [
        [
            row["checkpoint_id"],
            format_count(row["step"]),
            row["stage"],
            format_count(row["segment"]),
            row["optimizer"],
            format_count(len(row["parameter_groups"])),
            format_number(row["learning_rate"]),
            row["learning_rate_source"],
            format_number(row["momentum"]),
            format_number(row["weight_decay"]),
            format_number(row["step_mass"]),
            format_share(row["attributed_share"]),
            format_bytes(row["bytes"]),
            row["sha256"][:12],
            row["file"],
        ]
        for row in shown.iter_rows(named=True)
    ]
    columns = (
        Column("Checkpoint", "code"),
        Column("Step", "number"),
        Column("Stage"),
        Column("Segment", "number"),
        Column("Optimiser", "word"),
        Column("Parameter groups", "number"),
        Column("Learning rate", "number"),
        Column("Rates are", "word"),
        Column("Momentum", "number"),
        Column("Weight decay", "number"),
        Column("Step mass", "number"),
        Column("Attributed", "number"),
        Column("Size", "number"),
        Column("SHA-256 begins", "code"),
        Column("File", "path"),
    )
    return Table("Checkpoints, in the order of training", columns, rows, " ".join(notes))


def segment_table(
    checkpoint_manifest: pl.DataFrame,
    contributions: pl.DataFrame,
    suspects: pl.Series,
) -> Table:
    """Return what each segment consists of and how much of the scores arose in it.

    Args:
        checkpoint_manifest: As `schemas.CheckpointManifest`.
        contributions: As `schemas.SegmentContributions`; a segment may be missing from it.
        suspects: Ids of the suspects.
    """
    segments = (
        checkpoint_manifest.sort("segment", "step")
        .group_by("segment", maintain_order=True)
        .agg(
            pl.col("run", "stage").first(),
            pl.len().alias("checkpoints"),
            first=pl.col("step").first(),
            last=pl.col("step").last(),
            step_mass=pl.col("step_mass").sum(),
        )
    )
    suspect = pl.col("example_id").is_in(suspects.implode())
    harm = pl.col("harm")
    sums = (
        contributions.group_by("segment")
        .agg(
            absolute=pl.col("mean_absolute_score").sum(),
            suspects=harm.filter(suspect).mean(),
            others=harm.filter(~suspect).mean(),
        )
        .with_columns(share=pl.col("absolute") / pl.col("absolute").sum())
        # Threads add in any order; rounding once more hides it from the last digit shown.
        .with_columns(pl.col("suspects", "others", "share").round_sig_figs(6))
    )
    several_runs = run_count(checkpoint_manifest) > 1
    rows = [
        [
            format_count(row["segment"]),
            f"{row['run']} · {row['stage']}" if several_runs else row["stage"],
            format_count(row["checkpoints"]),
            _span(row["first"], row["last"]),
            format_number(row["step_mass"]),
            format_share(row["share"]),
            format_number(row["suspects"], signed=True),
            format_number(row["others"], signed=True),
        ]
        for row in segments.join(sums, on="segment", how="left", maintain_order="left").iter_rows(
            named=True
        )
    ]
    columns = (
        Column("Segment", "number"),
        Column("Run · stage" if several_runs else "Stage"),
        Column("Checkpoints", "number"),
        Column("Steps", "number"),
        Column("Step mass τ", "number"),
        Column("Share of absolute scores", "number"),
        Column("Mean harm, suspects", "number"),
        Column("Mean harm, others", "number"),
    )
    missing = any(row[5] == MISSING for row in rows)
    note = f"{MISSING}: the method takes nothing from this segment." if missing else ""
    return Table("Segments of training", columns, rows, note)


def parameter_table(unattributed_parameters: pl.DataFrame) -> Table:
    """Return the parameters without attribution, the largest first."""
    ordered = unattributed_parameters.sort(["size", "parameter"], descending=[True, False])
    rows = [
        [parameter, format_count(size), reason]
        for parameter, size, reason in ordered.head(PARAMETER_ROWS)
        .select("parameter", "size", "reason")
        .iter_rows()
    ]
    note = ""
    if ordered.height > PARAMETER_ROWS:
        rest = ordered.tail(-PARAMETER_ROWS)
        note = (
            f"The {format_count(PARAMETER_ROWS)} largest; {format_count(rest.height)} more have "
            f"{format_noun(int(rest['size'].sum()), 'value')} together."
        )
    columns = (Column("Parameter", "code"), Column("Values", "number"), Column("Why", "sentence"))
    return Table("Parameters without attribution", columns, rows, note)


def ranking_table(rankings: pl.DataFrame, *, planted: int, top_count: int) -> Table:
    """Return how many planted errors each ranking finds.

    Args:
        rankings: Columns ranking, found_in_top, recall_in_top, average_precision.
        planted: Planted errors in all.
        top_count: Examples inspected.
    """
    rows = [
        [
            row["ranking"],
            f"{format_count(row['found_in_top'])} of {format_count(planted)}",
            format_share(row["recall_in_top"]),
            format_number(row["average_precision"]),
        ]
        for row in rankings.iter_rows(named=True)
    ]
    columns = (
        Column("Ranking"),
        Column(f"Found in the first {format_count(top_count)}", "number"),
        Column("Recall", "number"),
        Column("Average precision", "number"),
    )
    return Table("Planted label errors found, by ranking", columns, rows)


def _text(value: object) -> str:
    return MISSING if value is None else str(value)


def _span(first: int, last: int) -> str:
    if first == last:
        return format_count(first)
    return f"{format_count(first)}–{format_count(last)}"

"""The page's tables: rows of ready text, and a note wherever rows are left out."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import polars as pl

from sourcetrace.formats import (
    MISSING,
    format_bytes,
    format_count,
    format_noun,
    format_number,
    format_share,
    format_span,
    format_with_error,
    shorten,
)
from sourcetrace.reporting.records import GroundTruth

FULL_LIST = "data/08_reporting/review_list.csv"

_REVIEW_ROWS = 200
_CHECKPOINT_ROWS = 60
_PARAMETER_ROWS = 100
_CELL = 200

_Kind = Literal["text", "word", "number", "code", "path", "action", "sentence"]
Columns = Mapping[str, tuple[_Kind, Callable[[Any], str]]]
"""Heading -> how the column's cells look, and a row's cell as text."""


@dataclass(frozen=True)
class Table:
    """A table; the first column names the row.

    Attributes:
        label: What a screen reader announces, and the caption.
        columns: Headings and how their cells look, [C].
        rows: [R][C], text as shown, not yet escaped.
        note: What is left out and where it is, or nothing.
    """

    label: str
    columns: tuple[tuple[str, _Kind], ...]
    rows: list[list[str]]
    note: str = ""

    @classmethod
    def of(cls, label: str, columns: Columns, rows: Iterable[Any], note: str = "") -> Self:
        """Return a table of rows, whatever the columns' functions take."""
        cells = [
            [
                cell(row) if kind == "sentence" else shorten(cell(row), _CELL)
                for kind, cell in columns.values()
            ]
            for row in rows
        ]
        kinds = tuple((title, kind) for title, (kind, _) in columns.items())
        return cls(label, kinds, cells, note)


def _text(value: object) -> str:
    """Return the text, or a dash where there is none."""
    return MISSING if value is None else str(value)


def review_table(review_list: pl.DataFrame) -> Table:
    """Return the first rows of the review list."""
    note = f"The whole list is {FULL_LIST}, one row a training example."
    if review_list.height > _REVIEW_ROWS:
        note = (
            f"The first {format_count(_REVIEW_ROWS)} of {format_count(review_list.height)} rows; "
            f"the whole list is {FULL_LIST}."
        )
    return Table.of(
        "Training examples, most harmful first",
        {
            "Rank": ("number", lambda r: format_count(r["rank"])),
            "Example": ("code", lambda r: r["example_id"]),
            "Suggested": ("action", lambda r: r["suggested_action"]),
            "Given → predicted": ("text", given_and_predicted),
            "P(given)": ("number", lambda r: format_share(r["given_label_probability"])),
            "Harm ± error": ("number", lambda r: format_with_error(r["harm"], r["harm_error"])),
            "Queries harmed": ("number", lambda r: format_count(r["queries_harmed"])),
            "Loss influence": (
                "number",
                lambda r: format_number(r["total_query_loss_influence"], signed=True),
            ),
            "Loss": ("number", lambda r: format_number(r["loss"])),
            "Self-influence · rank": (
                "number",
                lambda r: (
                    f"{format_number(r['self_influence'])} · "
                    f"{format_count(r['self_influence_rank'])}"
                ),
            ),
            "Reason": ("sentence", lambda r: r["reason"]),
        },
        review_list.head(_REVIEW_ROWS).iter_rows(named=True),
        note,
    )


def given_and_predicted(row: Mapping[str, Any]) -> str:
    """Return an example's labels; each is short enough to leave room for the other."""
    names = (shorten(_text(row[f"{name}_label"])) for name in ("given", "predicted"))
    return " → ".join(names)


def checkpoint_table(checkpoint_manifest: pl.DataFrame) -> Table:
    """Return the checkpoints in the order of training, run after run."""
    manifest = checkpoint_manifest.sort("segment", "step")
    notes = []
    if manifest.height > _CHECKPOINT_ROWS:
        # The end of training matters most: queries are measured there.
        notes.append(
            f"The last {format_count(_CHECKPOINT_ROWS)} of "
            f"{format_noun(manifest.height, 'checkpoint')}; the checkpoint manifest has all."
        )
    if manifest["parameter_groups"].list.len().max() > 1:  # type: ignore[operator]
        notes.append(
            "Learning rate, momentum, weight decay and step mass are those of the first parameter "
            "group; the checkpoint manifest has every group's."
        )
    return Table.of(
        "Checkpoints, in the order of training",
        {
            "Checkpoint": ("code", lambda r: r["checkpoint_id"]),
            "Step": ("number", lambda r: format_count(r["step"])),
            "Stage": ("text", lambda r: r["stage"]),
            "Segment": ("number", lambda r: format_count(r["segment"])),
            "Optimiser": ("word", lambda r: r["optimizer"]),
            "Parameter groups": ("number", lambda r: format_count(len(r["parameter_groups"]))),
            "Learning rate": ("number", lambda r: format_number(r["learning_rate"])),
            "Rates are": ("word", lambda r: r["learning_rate_source"]),
            "Momentum": ("number", lambda r: format_number(r["momentum"])),
            "Weight decay": ("number", lambda r: format_number(r["weight_decay"])),
            "Step mass": ("number", lambda r: format_number(r["step_mass"])),
            "Attributed": ("number", lambda r: format_share(r["attributed_share"])),
            "Size": ("number", lambda r: format_bytes(r["bytes"])),
            "SHA-256 begins": ("code", lambda r: r["sha256"][:12]),
            "File": ("path", lambda r: r["file"]),
        },
        manifest.tail(_CHECKPOINT_ROWS).iter_rows(named=True),
        " ".join(notes),
    )


def segment_table(
    checkpoint_manifest: pl.DataFrame, contributions: pl.DataFrame, suspects: pl.Series
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
    sums = (
        contributions.group_by("segment")
        .agg(
            absolute=pl.col("mean_absolute_score").sum(),
            suspects=pl.col("harm").filter(suspect).mean(),
            others=pl.col("harm").filter(~suspect).mean(),
        )
        .with_columns(share=pl.col("absolute") / pl.col("absolute").sum())
        # Threads add in any order; rounding once more hides it from the last digit shown.
        .with_columns(pl.col("suspects", "others", "share").round_sig_figs(6))
    )
    rows = segments.join(sums, on="segment", how="left", maintain_order="left")
    several_runs = checkpoint_manifest["run"].n_unique() > 1
    return Table.of(
        "Segments of training",
        {
            "Segment": ("number", lambda r: format_count(r["segment"])),
            "Run · stage" if several_runs else "Stage": (
                "text",
                lambda r: f"{r['run']} · {r['stage']}" if several_runs else r["stage"],
            ),
            "Checkpoints": ("number", lambda r: format_count(r["checkpoints"])),
            "Steps": ("number", lambda r: format_span(r["first"], r["last"])),
            "Step mass τ": ("number", lambda r: format_number(r["step_mass"])),
            "Share of absolute scores": ("number", lambda r: format_share(r["share"])),
            "Mean harm, suspects": ("number", lambda r: format_number(r["suspects"], signed=True)),
            "Mean harm, others": ("number", lambda r: format_number(r["others"], signed=True)),
        },
        rows.iter_rows(named=True),
        f"{MISSING}: the method takes nothing from this segment."
        if rows["share"].is_null().any() or rows["share"].is_nan().any()
        else "",
    )


def parameter_table(unattributed_parameters: pl.DataFrame) -> Table:
    """Return the parameters without attribution, the largest first."""
    ordered = unattributed_parameters.sort(["size", "parameter"], descending=[True, False])
    note = ""
    if ordered.height > _PARAMETER_ROWS:
        rest = ordered.tail(-_PARAMETER_ROWS)
        note = (
            f"The {format_count(_PARAMETER_ROWS)} largest; {format_count(rest.height)} more have "
            f"{format_noun(int(rest['size'].sum()), 'value')} together."
        )
    return Table.of(
        "Parameters without attribution",
        {
            "Parameter": ("code", lambda r: r["parameter"]),
            "Values": ("number", lambda r: format_count(r["size"])),
            "Why": ("sentence", lambda r: r["reason"]),
        },
        ordered.head(_PARAMETER_ROWS).iter_rows(named=True),
        note,
    )


def ranking_table(truth: GroundTruth) -> Table:
    """Return how many planted errors each ranking finds."""
    planted = truth.planted
    return Table.of(
        "Planted label errors found, by ranking",
        {
            "Ranking": ("text", lambda r: r.name),
            f"Found in the first {format_count(planted)}": (
                "number",
                lambda r: f"{format_count(r.found)} of {format_count(planted)}",
            ),
            "Recall": ("number", lambda r: format_share(r.found / max(1, planted))),
            "Average precision": ("number", lambda r: format_number(r.average_precision)),
        },
        truth.rankings,
    )

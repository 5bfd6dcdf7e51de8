"""The page's tables: rows of ready text, and a note wherever rows are left out."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Self

import polars as pl

from sourcetrace.formats import (
    MISSING,
    format_bytes,
    format_correlation,
    format_count,
    format_noun,
    format_number,
    format_share,
    format_span,
    shorten,
)
from sourcetrace.reporting.records import GroundTruth

_ASSUMED = "assumed: "
"""Begins the source of a value that nothing in the checkpoints says."""

_CHECKPOINT_ROWS = 60
_PARAMETER_ROWS = 100
_CELL = 200

_Text = Literal["text", "word", "code", "path", "action", "sentence"]
_Number = Literal["numbers", "count", "number", "signed", "share", "size", "correlation", "factor"]

_NUMBERS: Mapping[str, Callable[[Any], str]] = {
    "numbers": str,
    "count": format_count,
    "number": format_number,
    "signed": partial(format_number, signed=True),
    "share": format_share,
    "size": format_bytes,
    "correlation": format_correlation,
    "factor": lambda value: f"{format_number(value)}×",
}
"""Kind of number -> how it is written; `numbers` are written already."""

Columns = Mapping[str, tuple[_Text | _Number, str | Callable[[Any], Any]]]
"""Heading -> what a column's cells are, and their name in a row, or what makes them of it.

A pair is two values with an arrow between."""


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
    columns: tuple[tuple[str, str], ...]
    rows: list[list[str]]
    note: str = ""

    @classmethod
    def of(cls, label: str, columns: Columns, rows: Iterable[Any], note: str = "") -> Self:
        """Return a table of rows, mappings or records."""
        looks = dict.fromkeys(_NUMBERS, "number")
        return cls(
            label,
            tuple((title, looks.get(kind, kind)) for title, (kind, _) in columns.items()),
            [[_cell(row, *column) for column in columns.values()] for row in rows],
            note,
        )

    @classmethod
    def of_checkpoints(cls, checkpoint_manifest: pl.DataFrame) -> Self:
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
                "Learning rate, momentum, weight decay and step mass are those of the first "
                "parameter group; the checkpoint manifest has every group's."
            )
        sources = manifest["sources"].explode().struct.field("source")
        assumed = sources.filter(sources.str.starts_with(_ASSUMED)).unique(maintain_order=True)
        if len(assumed):
            notes.append(
                "Assumed, since nothing in the checkpoints says it: "
                f"{'; '.join(assumed.str.strip_prefix(_ASSUMED))}."
            )
        columns: Columns = {
            "Checkpoint": ("code", "checkpoint_id"),
            "Step": ("count", "step"),
            "Stage": ("text", "stage"),
            "Segment": ("count", "segment"),
            "Optimiser": ("word", "optimizer"),
            "Parameter groups": ("count", lambda r: len(r["parameter_groups"])),
            "Learning rate": ("number", "learning_rate"),
            "Rates are": ("word", "learning_rate_source"),
            "Momentum": ("number", "momentum"),
            "Weight decay": ("number", "weight_decay"),
            "Step mass": ("number", "step_mass"),
            "Attributed": ("share", "attributed_share"),
            "Size": ("size", "bytes"),
            "SHA-256 begins": ("code", lambda r: r["sha256"][:12]),
            "File": ("path", "file"),
        }
        rows = manifest.tail(_CHECKPOINT_ROWS).iter_rows(named=True)
        return cls.of("Checkpoints, in the order of training", columns, rows, " ".join(notes))

    @classmethod
    def of_segments(
        cls, checkpoint_manifest: pl.DataFrame, contributions: pl.DataFrame, suspects: pl.Series
    ) -> Self:
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
        columns: Columns = {
            "Segment": ("count", "segment"),
            "Run · stage" if several_runs else "Stage": (
                "text",
                lambda r: f"{r['run']} · {r['stage']}" if several_runs else r["stage"],
            ),
            "Checkpoints": ("count", "checkpoints"),
            "Steps": ("numbers", lambda r: format_span(r["first"], r["last"])),
            "Step mass τ": ("number", "step_mass"),
            "Share of absolute scores": ("share", "share"),
            "Mean harm, suspects": ("signed", "suspects"),
            "Mean harm, others": ("signed", "others"),
        }
        untouched = rows["share"].is_null().any() or rows["share"].is_nan().any()
        note = f"{MISSING}: the method takes nothing from this segment." if untouched else ""
        return cls.of("Segments of training", columns, rows.iter_rows(named=True), note)

    @classmethod
    def of_parameters(cls, unattributed_parameters: pl.DataFrame) -> Self:
        """Return the parameters without attribution, the largest first."""
        ordered = unattributed_parameters.sort(["size", "parameter"], descending=[True, False])
        note = ""
        if ordered.height > _PARAMETER_ROWS:
            rest = ordered.tail(-_PARAMETER_ROWS)
            note = (
                f"The {format_count(_PARAMETER_ROWS)} largest; {format_count(rest.height)} more "
                f"have {format_noun(int(rest['size'].sum()), 'value')} together."
            )
        columns: Columns = {
            "Parameter": ("code", "parameter"),
            "Values": ("count", "size"),
            "Why": ("sentence", "reason"),
        }
        rows = ordered.head(_PARAMETER_ROWS).iter_rows(named=True)
        return cls.of("Parameters without attribution", columns, rows, note)

    @classmethod
    def of_rankings(cls, truth: GroundTruth) -> Self:
        """Return how many planted errors each ranking finds."""
        planted = format_count(truth.planted)
        columns: Columns = {
            "Ranking": ("text", "name"),
            f"Found in the first {planted}": (
                "numbers",
                lambda r: f"{format_count(r.found)} of {planted}",
            ),
            "Recall": ("share", lambda r: r.found / max(1, truth.planted)),
            "Average precision": ("number", "average_precision"),
        }
        return cls.of("Planted label errors found, by ranking", columns, truth.rankings)


def _cell(row: Any, kind: _Text | _Number, what: str | Callable[[Any], Any]) -> str:
    if isinstance(what, str):
        value = row[what] if isinstance(row, Mapping) else getattr(row, what)
    else:
        value = what(row)
    if isinstance(value, tuple):
        # Each is short enough to leave room for the other.
        return " → ".join(shorten(_written(one, kind)) for one in value)
    text = _written(value, kind)
    return text if kind == "sentence" else shorten(text, _CELL)


def _written(value: Any, kind: _Text | _Number) -> str:
    return MISSING if value is None else _NUMBERS.get(kind, str)(value)

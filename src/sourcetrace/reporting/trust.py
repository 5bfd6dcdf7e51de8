"""How far the scores can be trusted: the trust figure and what else retraining said, in words."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import polars as pl

from sourcetrace.formats import format_count, format_number, format_ratio, format_share
from sourcetrace.reporting.records import Trust
from sourcetrace.reporting.tables import Columns, Table

_COMMAND = "kedro run --pipelines verification"


def _count(value: float) -> str:
    return format_count(round(value))


_signed = partial(format_number, signed=True)

_MEASURES: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "lds": ("Rank correlation (LDS)", format_ratio),
    "ceiling": ("Noise ceiling", format_ratio),
    "lds_of_ceiling": ("Share of the ceiling", format_share),
    "recipe_agreement": ("Agreement with the audited model", format_ratio),
    "seed_agreement": ("Agreement between seeds", format_ratio),
    "removal_slope": ("Removal slope", format_ratio),
    "flips_helpers": ("Predictions changed, helpers removed", format_share),
    "flips_random": ("Predictions changed, random removed", format_share),
    "change_helpers": ("Measured change, helpers removed", _signed),
    "change_random": ("Measured change, random removed", _signed),
    "subsets": ("Subsets", _count),
    "fraction": ("Share of the data in a subset", format_share),
    "seeds": ("Seeds", _count),
}
"""Measure -> its name, and how its values are written."""


@dataclass(frozen=True)
class Retraining:
    """What the last verification said of scores.

    Attributes:
        summary: `schemas.VerificationSummary`; empty where nothing was verified.
        queries: `schemas.VerificationQueries`, for the page alone.
        removals: `schemas.VerificationRemovals`, for the page alone; may be empty.
    """

    summary: pl.DataFrame = field(default_factory=pl.DataFrame)
    queries: pl.DataFrame = field(default_factory=pl.DataFrame)
    removals: pl.DataFrame = field(default_factory=pl.DataFrame)

    def trust_in(self, scores_digest: str, *, kept: bool = True) -> Trust:
        """Return the line for scores, from the last verification there was.

        Args:
            scores_digest: Of the scores that the line is about.
            kept: Whether there are scores, by which a verification predicts.
        """
        if not kept:
            text = "verification takes scores, and attribution.precision.stored_scores kept none."
            return Trust(status="Not verified", text=text)
        if self.summary.is_empty():
            text = "no retraining has tested these scores."
            return Trust(status="Not verified", text=text, command=_COMMAND)
        if not self.is_of(scores_digest):
            text = "the last verification was of earlier scores, which have changed since."
            return Trust(status="Not verified", text=text, command=_COMMAND)
        return self.figure()

    def is_of(self, scores_digest: str) -> bool:
        """Return whether the verification was of these very scores."""
        return not self.summary.is_empty() and self.summary["scores_digest"][0] == scores_digest

    def figure(self) -> Trust:
        """Return the trust figure with its interval and its meaning."""
        measured = self.measured()
        lds, ceiling = measured["lds"], measured["ceiling"]["value"]
        subsets = round(measured["subsets"]["value"] or 0)
        interval = f"95 % interval {format_ratio(lds['low'])} to {format_ratio(lds['high'])}"
        tested = (
            f"retrained on {format_count(subsets)} random "
            f"{_subsets(measured['fraction']['value'])} of the training data, the scores predict "
            "how queries turn out"
        )
        if lds["low"] is None or lds["low"] <= 0:
            return Trust(
                status="Not confirmed",
                text=f"{tested} no better than chance (rank correlation "
                f"{format_ratio(lds['value'])}, {interval}). Do not act on them without looking at "
                "each example.",
            )
        value = f"{format_ratio(lds['value'])} ({interval}; 0 is chance)"
        text = f"{tested} with a rank correlation of {value}."
        if ceiling is not None:
            text += f" With this much retraining noise at most {format_ratio(ceiling)} is possible."
        return Trust(status="Verified", text=text)

    def measured(self, removed: int | None = None) -> dict[str, dict[str, Any]]:
        """Return the rows by measure: of all retrainings, or of removals of one size."""
        rows = self.summary.filter(pl.col("removed").eq_missing(removed))
        return {row["measure"]: row for row in rows.iter_rows(named=True)}

    @property
    def largest_removal(self) -> int | None:
        """How many helpers were removed at most; None where none were."""
        return self.summary["removed"].max()  # type: ignore[return-value]

    def table(self) -> Table:
        """Return every measure with its interval and what it is."""
        columns: Columns = {
            "Measure": ("text", _measure_name),
            "Value": ("numbers", lambda r: _shown(r, "value")),
            "95 % interval": ("numbers", lambda r: _shown(r, "low", "high")),
            "What it is": ("sentence", "detail"),
        }
        rows = self.summary.iter_rows(named=True)
        return Table.of("What retraining said of the scores", columns, rows)


def _measure_name(row: dict[str, Any]) -> str:
    name, _ = _MEASURES[row["measure"]]
    return name if row["removed"] is None else f"{name}: {format_count(row['removed'])}"


def _shown(row: dict[str, Any], *columns: str) -> str | None:
    _, write = _MEASURES[row["measure"]]
    values = [row[column] for column in columns]
    return None if None in values else " to ".join(map(write, values))


def _subsets(fraction: float) -> str:
    return "halves" if round(fraction, 2) == 0.5 else f"subsets of {format_share(fraction)}"  # noqa: PLR2004

"""How far the scores can be trusted: the trust figure and what else retraining said, in words."""

from dataclasses import dataclass
from typing import Any

import polars as pl

from sourcetrace.formats import MISSING, format_count, format_number, format_share
from sourcetrace.reporting.records import Trust
from sourcetrace.reporting.tables import Table

_COMMAND = "kedro run --pipelines verification"

_NAMES = {
    "lds": "Rank correlation (LDS)",
    "ceiling": "Noise ceiling",
    "lds_of_ceiling": "Share of the ceiling",
    "recipe_agreement": "Agreement with the audited model",
    "seed_agreement": "Agreement between seeds",
    "removal_slope": "Removal slope",
    "flips_helpers": "Predictions changed, helpers removed",
    "flips_random": "Predictions changed, random removed",
    "change_helpers": "Measured change, helpers removed",
    "change_random": "Measured change, random removed",
    "subsets": "Subsets",
    "fraction": "Share of the data in a subset",
    "seeds": "Seeds",
}

# Agreement this much below that between seeds: train() is hardly the audited training.
_DISAGREEMENT = 0.2
_SHARES = ("lds_of_ceiling", "fraction", "flips_helpers", "flips_random")
_COUNTS = ("subsets", "seeds")


@dataclass(frozen=True)
class Retraining:
    """What the last verification said of scores.

    Attributes:
        summary: `schemas.VerificationSummary`; empty where nothing was verified.
    """

    summary: pl.DataFrame

    def trust_in(self, scores_digest: str) -> Trust:
        """Return the line for scores, from the last verification there was.

        Args:
            scores_digest: Of the scores that the line is about.
        """
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
        lds, ceiling = self._row("lds"), self._row("ceiling")
        subsets = round(self._row("subsets")["value"] or 0)
        interval = f"95 % interval {_two(lds['low'])} to {_two(lds['high'])}"
        tested = (
            f"retrained on {format_count(subsets)} random "
            f"{_subsets(self._row('fraction')['value'])} of the training data, the scores predict "
            "how queries turn out"
        )
        if lds["low"] is None or lds["low"] <= 0:
            return Trust(
                status="Not confirmed",
                text=f"{tested} no better than chance (rank correlation {_two(lds['value'])}, "
                f"{interval}). Do not act on them without looking at each example.",
            )
        measured = f"{_two(lds['value'])} ({interval}; 0 is chance)"
        text = f"{tested} with a rank correlation of {measured}."
        if (possible := ceiling["value"]) is not None:
            text += f" With this much retraining noise at most {_two(possible)} is possible."
        return Trust(status="Verified", text=text)

    def removal_sentences(self) -> list[str]:
        """Return what removing helpers did, a sentence a finding."""
        sentences = []
        sizes = self.summary.filter(pl.col("removed").is_not_null()).sort("removed")["removed"]
        if len(sizes):
            sentences.append(self._largest_removal(sizes[-1]))
        slope = self.summary.filter(measure="removal_slope")
        if slope.height and slope["value"][0] is not None:
            value, low, high = slope.select("value", "low", "high").row(0)
            sentences.append(
                f"On removal, measurements changed by {_two(value)} (95 % interval {_two(low)} to "
                f"{_two(high)}) times what the summed scores said{_units(low, high)}."
            )
        agreement = self._row("recipe_agreement")["value"]
        between_seeds = self._row("seed_agreement")["value"]
        usual = 1.0 if between_seeds is None else between_seeds
        if agreement is not None and agreement < usual - _DISAGREEMENT:
            sentences.append(
                "Beware: retraining on all examples orders the queries unlike the audited model "
                f"(rank correlation {_two(agreement)}; two seeds: {_two(between_seeds)}). Check "
                "that train() repeats the audited training."
            )
        return sentences

    def table(self) -> Table:
        """Return every measure with its interval and what it is."""
        return Table.of(
            "What retraining said of the scores",
            {
                "Measure": ("text", _measure_name),
                "Value": ("number", lambda r: _shown(r["measure"], r["value"])),
                "95 % interval": ("number", _interval),
                "What it is": ("sentence", lambda r: r["detail"]),
            },
            self.summary.iter_rows(named=True),
        )

    def _largest_removal(self, removed: int) -> str:
        """Return what removing the most helpers did: to predictions, or else to measurements."""
        values = dict(self.summary.filter(removed=removed).select("measure", "value").iter_rows())
        without = f"Without the {format_count(removed)} strongest helpers of a query, "
        if "flips_helpers" in values:
            return (
                f"{without}{format_share(values['flips_helpers'])} of the predictions change; "
                "without as many random examples of the same classes, "
                f"{format_share(values['flips_random'])}."
            )
        return (
            f"{without}its measurement changes by {format_number(values['change_helpers'])} on "
            "average; without as many random examples, by "
            f"{format_number(values['change_random'])}."
        )

    def _row(self, measure: str) -> dict[str, float | None]:
        return self.summary.row(by_predicate=pl.col("measure") == measure, named=True)


@dataclass(frozen=True)
class Verification(Retraining):
    """The same with what it was found from.

    Attributes:
        queries: `schemas.VerificationQueries`.
        removals: `schemas.VerificationRemovals`; may be empty.
    """

    queries: pl.DataFrame
    removals: pl.DataFrame


def _measure_name(row: dict[str, Any]) -> str:
    name = _NAMES.get(row["measure"], row["measure"])
    return name if row["removed"] is None else f"{name}: {format_count(row['removed'])}"


def _interval(row: dict[str, Any]) -> str:
    if row["low"] is None:
        return MISSING
    return " to ".join(_shown(row["measure"], row[end]) for end in ("low", "high"))


def _units(low: float | None, high: float | None) -> str:
    """Return what a slope's interval means for the scores' units."""
    if low is None or high is None or low <= 1 <= high:
        return ""
    if low <= 0:
        return ": their size says nothing here"
    return ": take them as an order, their size " + (
        "promises too much" if high < 1 else "promises too little"
    )


def _shown(measure: str, value: float | None) -> str:
    if value is None:
        return MISSING
    if measure in _COUNTS:
        return format_count(round(value))
    if measure in _SHARES:
        return format_share(value)
    return format_number(value, signed=True) if measure.startswith("change") else _two(value)


def _subsets(fraction: float | None) -> str:
    if fraction is not None and round(fraction, 2) == 0.5:  # noqa: PLR2004
        return "halves"
    return f"subsets of {format_share(fraction)}"


def _two(value: float | None) -> str:
    """Return a value with two decimals and a real minus sign."""
    return MISSING if value is None else f"{value:.2f}".replace("-", "−")

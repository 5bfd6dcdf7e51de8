"""What people decided, in words: in the review list's reasons and at the end of a run."""

from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from sourcetrace.audit.decisions.precision import ErrorShare
from sourcetrace.audit.decisions.standing import removed_already
from sourcetrace.audit.suggestions.calibration import error_probability
from sourcetrace.formats import format_count, format_noun, format_share
from sourcetrace.schemas.decisions import DECISIONS
from sourcetrace.schemas.review import ReviewList, is_flagged
from sourcetrace.schemas.table import beside
from sourcetrace.validation import JsonRecord

_DONE = {"relabel": "relabelled", "remove": "removed", "keep": "kept", "unsure": "left open"}


def mark_decided(review_list: pl.DataFrame, standing: pl.DataFrame) -> pl.DataFrame:
    """Return `schemas.ReviewList`: what was decided before is there, and what it makes probable.

    Args:
        review_list: The list without `decision`.
        standing: As `standing_decisions` returns them.
    """
    table = beside(review_list, standing)
    decision, day = pl.col("decision"), pl.col("decided_at").str.head(10)
    by = pl.format("by {} on {}", "decided_by", day)
    said = (
        pl.when(decision == "keep")
        .then(pl.format("Kept {}.", by))
        .when(pl.col("carried_out"))
        .then(pl.format("Relabelled to {} as decided {}; it still stands out.", "new_label", by))
        .when(decision == "relabel")
        .then(pl.format("To be relabelled to {}, decided {}; not done.", "new_label", by))
        .when(decision == "remove")
        .then(pl.format("To be removed, decided {}; not done.", by))
        .when(decision == "unsure")
        .then(pl.format("Looked at and left open {}.", by))
    )
    quiet = pl.col("carried_out") & ~is_flagged()
    told = pl.when(quiet.fill_null(value=False)).then(None).otherwise(said)
    reason = pl.concat_str(told, "reason", separator=" ", ignore_nulls=True)
    # What was relabelled has a label that nobody has judged.
    judged = table.select("example_id", pl.when(~pl.col("carried_out")).then("decision"))
    return table.with_columns(
        reason=reason, error_probability=error_probability(table, judged)
    ).select(list(ReviewList.columns()))


@dataclass(frozen=True)
class DecisionSummary(JsonRecord):
    """What was decided, and what it says of the audit.

    Attributes:
        scores_digest: SHA-256 of the audit's scores.
        added: Decision -> how many were added to the log by the last file.
        repeated: How many of its rows said what was known already.
        of_other_audits: How many of those added were exported from another audit.
        standing: Decision -> how many of the audit's examples it stands about.
        examples: Of the audit.
        shares: `suspects` and, where a sample was drawn, `others` -> their share of errors.
        sampled: Whether that is of a random sample.
        absent: How many rows of the file are of examples that the audit does not have.
    """

    scores_digest: str
    added: dict[str, int]
    repeated: int
    of_other_audits: int
    standing: dict[str, int]
    examples: int
    shares: dict[str, ErrorShare]
    sampled: bool
    absent: int = 0

    def sentences(self) -> Iterator[str]:
        """Yield what happened and what it says."""
        again = f"; {format_noun(self.repeated, 'row')} said nothing new" if self.repeated else ""
        total = sum(self.added.values())
        yield f"{format_noun(total, 'decision')} added{_counted(self.added)}{again}."
        if self.of_other_audits:
            exported = format_noun(self.of_other_audits, "decision")
            yield f"{exported} came from another audit, about contents that are still the same."
        if self.absent:
            rows = format_noun(self.absent, "row is of an example", "rows are of examples")
            yield f"{rows} that this audit does not have, decided so before."
        count = sum(self.standing.values())
        yield (
            f"{format_count(count)} of {format_noun(self.examples, 'example')} are decided"
            f"{_counted(self.standing)}."
        )
        for side, share in self.shares.items():
            if share.decided:
                yield self._error_share(side, share)

    def _error_share(self, side: str, share: ErrorShare) -> str:
        drawn = "drawn at random" if self.sampled else "that somebody decided on, not a random draw"
        called = {"suspects": "suspects", "others": "examples that are no suspects"}[side]
        return (
            f"Of {format_count(share.decided)} {called} {drawn}, {format_count(share.wrong)} are "
            f"errors: {format_share(share.wrong / share.decided)} (95 % interval "
            f"{format_share(share.low)} to {format_share(share.high)})."
        )


def count_decisions(decisions: pl.Series) -> dict[str, int]:
    """Return how many there are of each, in the usual order."""
    counts = dict(decisions.drop_nulls().value_counts().iter_rows())
    return {name: counts[name] for name in DECISIONS if name in counts}


def standing_words(review_list: pl.DataFrame, log: pl.DataFrame) -> str:
    """Say which decisions stand, of whatever audit; nothing where there are none.

    Args:
        review_list: `schemas.ReviewList`.
        log: `schemas.DecisionLog`.
    """
    gone = removed_already(review_list, log)["decision"]
    counts = count_decisions(pl.concat([review_list["decision"].cast(pl.String), gone]))
    total = sum(counts.values())
    if not total:
        return ""
    stands = "stands" if total == 1 else "stand"
    return f"{format_noun(total, 'decision')} {stands}{_counted(counts)}; see decisions.jsonl."


def _counted(counts: dict[str, int]) -> str:
    told = ", ".join(f"{format_count(count)} {_DONE[name]}" for name, count in counts.items())
    return f" ({told})" if told else ""

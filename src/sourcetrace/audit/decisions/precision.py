"""How often a suspect is an error: a random sample to decide on, and what its decisions say."""

from dataclasses import dataclass
from typing import Self

import polars as pl
import scipy

from sourcetrace.audit.decisions.content import inputs_part
from sourcetrace.errors import InputError
from sourcetrace.formats import UNSEEN, format_names, format_noun
from sourcetrace.schemas.decisions import DecisionsFile
from sourcetrace.schemas.review import is_flagged
from sourcetrace.validation import JsonRecord

_CONTEXT = ("index", "given_label", "predicted_label")
"""Columns by which a person finds the example; whether it is a suspect, they need not know."""
_FILLED_IN = ("decision", "new_label", "note")


@dataclass(frozen=True)
class ErrorShare(JsonRecord):
    """The share of errors among examples that somebody decided on.

    Attributes:
        decided: On how many it was decided; those somebody was unsure of do not count.
        wrong: How many are to be relabelled or removed.
        low, high: The 95 % interval of the share (Wilson 1927), all of it without decisions.
    """

    decided: int
    wrong: int
    low: float
    high: float

    @classmethod
    def of(cls, decisions: pl.Series) -> Self:
        """Count decisions; empty ones are of examples that nobody decided on."""
        wrong = int(decisions.is_in(["relabel", "remove"]).sum())
        decided = wrong + int((decisions == "keep").sum())
        if not decided:
            return cls(0, 0, 0.0, 1.0)
        share = scipy.stats.binomtest(wrong, decided).proportion_ci(method="wilson")
        return cls(decided, wrong, float(share.low), float(share.high))


def draw_sample(
    review_list: pl.DataFrame, size: int, *, seed: int, scores_digest: str
) -> pl.DataFrame:
    """Return a file to decide on: as many suspects as others, at random and in random order.

    Where there are fewer suspects, or fewer others, all of them and more of the rest. What was
    decided before is filled in.

    Args:
        review_list: `schemas.ReviewList`.
        size: Examples.
        seed: Of the draw.
        scores_digest: Of the audit.
    """
    suspects, others = (review_list.filter(which) for which in (is_flagged(), ~is_flagged()))
    half = min(suspects.height, max(size // 2, size - others.height))
    drawn = pl.concat(
        side.sample(min(count, side.height), seed=seed)
        for side, count in ((suspects, half), (others, size - half))
    ).sample(fraction=1.0, shuffle=True, seed=seed)
    empty = (pl.lit(None, pl.String).alias(name) for name in ("new_label", "note"))
    filled = drawn.with_columns(*empty, scores_digest=pl.lit(scores_digest))
    return filled.select(*DecisionsFile.columns(), *_CONTEXT)


def refuse_to_overwrite(sample: pl.DataFrame, *handed_in: pl.DataFrame) -> None:
    """Refuse to draw another sample where nobody handed in what one has.

    Args:
        sample: As `read_decisions_file` returns it.
        handed_in: `schemas.DecisionLog`, and rows of files.

    Raises:
        InputError: If somebody filled in rows that were not handed in.
    """
    keys = ("example_id", "content_digest", *_FILLED_IN)
    # What a decision stands about: `standing_decisions`.
    about = (
        pl.when(decision="remove")
        .then(pl.concat_str("content_digest", "example_id"))
        .when(decision="relabel")
        .then(inputs_part())
        .otherwise("content_digest")
    )
    own, *rest = (
        table.select(pl.col(keys).fill_null("").str.replace_all(UNSEEN, "\ufffd").str.strip_chars())
        for table in (sample, *handed_in)
    )
    own, said = (table.with_columns(about=about) for table in (own, pl.concat(rest)))
    own = own.filter(pl.any_horizontal(pl.col(_FILLED_IN) != ""))
    # What was decided before is filled in without its label and note.
    drawn = said.with_columns(new_label=pl.lit(""), note=pl.lit(""))
    rows = own.join(said, on=keys, how="anti")
    lost = rows.join(drawn, on=["about", *_FILLED_IN], how="anti")["example_id"].to_list()
    if lost:
        raise InputError(
            f"review_sample.csv has {format_noun(len(lost), 'row')} that somebody filled in and "
            f"that {'was' if len(lost) == 1 else 'were'} not handed in ({format_names(lost)}); "
            "another sample would overwrite the file, so nothing was applied. Hand it in, with its "
            "path as decisions.path, or move it away."
        )


def error_shares(
    review_list: pl.DataFrame, standing: pl.DataFrame, sample: pl.DataFrame | None
) -> dict[str, ErrorShare]:
    """Return the share of errors among the suspects, and among the others of a sample.

    Args:
        review_list: `schemas.ReviewList`.
        standing: As `standing_decisions` returns it of them.
        sample: What was drawn of this audit, with `content_digest`; without one, all suspects
            that somebody decided on count.
    """
    # What was relabelled before is flagged under its new label, which nobody has judged.
    judged = standing.select(pl.when(~pl.col("carried_out")).then("decision"))["decision"]
    rows = review_list.with_columns(judged)
    if sample is None:
        return {"suspects": ErrorShare.of(rows.filter(is_flagged())["decision"])}
    rows = rows.join(sample, on="content_digest", how="semi")
    sides = {"suspects": is_flagged(), "others": ~is_flagged()}
    return {name: ErrorShare.of(rows.filter(which)["decision"]) for name, which in sides.items()}

"""Which decision stands about every example, and the data that follows from them.

A decision is about a content, whatever the example's id is by now, and the latest counts. Only a
removal is about one example: of two copies, one may go, and only a decision on this one keeps it.
"""

import polars as pl

from sourcetrace.audit.decisions.content import inputs_part
from sourcetrace.schemas.cleaned import CleanedData

_DECIDED = ("decision", "new_label", "decided_by", "decided_at", "carried_out")


def standing_decisions(examples: pl.DataFrame, log: pl.DataFrame) -> pl.DataFrame:
    """Return a row an example, in their order; without a decision, all but its id is empty.

    Args:
        examples: `example_id`, `content_digest` and `given_label`, as in `schemas.ReviewList`.
        log: `schemas.DecisionLog`.

    Returns:
        `example_id`, `decision`, `new_label`, `decided_by`, `decided_at`, and `carried_out`:
        whether the example has the label that it was decided to get.
    """
    ours = examples.select("example_id", "content_digest", "given_label")
    decided = log.with_row_index("entry").rename({"example_id": "decided_id"})
    own = pl.col("decided_id") == pl.col("example_id")
    as_it_is = ours.join(decided.drop("given_label"), on="content_digest").filter(
        (pl.col("decision") != "remove") | own
    )
    relabelled = (
        ours.with_columns(inputs=inputs_part())
        .join(
            decided.filter(decision="relabel").select(
                "entry", "decided_id", *_DECIDED[:-1], inputs=inputs_part(), given_label="new_label"
            ),
            on=["inputs", "given_label"],
        )
        # A copy that had this label anyway was not relabelled.
        .filter(own | ~pl.col("decided_id").is_in(ours["example_id"].implode()))
    )
    columns = ("example_id", "decided_id", "entry", *_DECIDED)
    found = pl.concat(
        [
            as_it_is.with_columns(carried_out=pl.lit(value=False)).select(columns),
            relabelled.with_columns(carried_out=pl.lit(value=True)).select(columns),
        ]
    )
    # What is said of all copies later does not bring back the one that goes.
    removed = _latest(found.filter(own)).filter(decision="remove")
    found = found.join(removed.select("example_id", removal="entry"), on="example_id", how="left")
    standing = _latest(found.filter(pl.col("entry") <= pl.col("removal").fill_null(log.height)))
    return ours.select("example_id").join(
        standing.select("example_id", *_DECIDED), on="example_id", how="left", maintain_order="left"
    )


def _latest(found: pl.DataFrame) -> pl.DataFrame:
    return found.sort("entry").group_by("example_id").last()


def cleaned_data(review_list: pl.DataFrame, log: pl.DataFrame) -> pl.DataFrame:
    """Return `schemas.CleanedData` of an audit's examples and of all that was decided.

    Args:
        review_list: `schemas.ReviewList`.
        log: `schemas.DecisionLog`.
    """
    examples = review_list.sort("index")
    relabelled = (pl.col("decision") == "relabel") & ~pl.col("carried_out")
    standing = standing_decisions(examples, log).with_columns(
        examples["index"],
        label=pl.when(relabelled).then("new_label").otherwise(examples["given_label"]),
    )
    gone = removed_already(examples, log).select(
        "example_id", "decision", index=pl.lit(None, pl.Int64), label="given_label"
    )
    keep = pl.col("decision").ne_missing("remove")
    table = pl.concat([standing.select(gone.columns), gone]).with_columns(keep=keep)
    return table.select(list(CleanedData.columns()))


def removed_already(examples: pl.DataFrame, log: pl.DataFrame) -> pl.DataFrame:
    """Return the entries of the log by which examples went that the audit has no more.

    Args:
        examples: `example_id`, of the audit.
        log: `schemas.DecisionLog`.
    """
    latest = log.group_by("example_id", maintain_order=True).last()
    return latest.filter(decision="remove").join(examples, on="example_id", how="anti")

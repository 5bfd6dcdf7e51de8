"""Which example of an audit is which of the audit before: by the content of its inputs.

Equal contents are paired, of several equal ones those with the same id first, then those with the
same label, then in the order of their ids. What is left is paired by id: an example whose content
is unknown, or was edited. An order of rows never counts.
"""

from typing import Final

import polars as pl

_PASSES: Final = (
    (["input_digest", "example_id"], True),
    (["input_digest", "label_key", "occurrence"], True),
    (["input_digest", "occurrence"], True),
    (["example_id"], False),
)
"""Columns that must agree, and whether that makes the contents the same."""


def pair_examples(now: pl.DataFrame, before: pl.DataFrame) -> pl.DataFrame:
    """Return one row a pair, and one for every example of either side that has no partner.

    Args:
        now: A row an example: unique `example_id`, `label`, `input_digest`, `target_digest`; the
            last three may be empty.
        before: The same of the audit before.

    Returns:
        `place` and `place_before`, row numbers in the two tables, one of them empty where there
        is no partner; `same_content`, false there and where two known contents differ.
    """
    left, left_before = (_keyed(side) for side in (now, before))
    pairs: list[pl.DataFrame] = []
    for columns, known in _PASSES:
        ours, theirs = (_counted(side, columns) for side in (left, left_before))
        # Empty digests are equal to nothing, not to each other.
        found = ours.join(theirs, on=columns, how="inner", suffix="_before").select(
            "place",
            "place_before",
            same_content=pl.lit(value=True)
            if known
            else pl.col("input_digest").is_null() | pl.col("input_digest_before").is_null(),
        )
        pairs.append(found)
        left = left.join(found, on="place", how="anti")
        left_before = left_before.join(found.select(place="place_before"), on="place", how="anti")
    place = pl.col("place")
    nowhere = pl.lit(None, dtype=pl.get_index_type())
    alone = pl.lit(value=False).alias("same_content")
    return pl.concat(
        [
            *pairs,
            left.select(place, nowhere.alias("place_before"), alone),
            left_before.select(nowhere.alias("place"), place.alias("place_before"), alone),
        ]
    )


def _keyed(side: pl.DataFrame) -> pl.DataFrame:
    label_key = pl.concat_str(
        pl.col("label").fill_null(""), pl.col("target_digest").fill_null(""), separator="\0"
    )
    return (
        side.select("example_id", "input_digest", label_key=label_key)
        .with_row_index("place")
        .sort("example_id")
    )


def _counted(side: pl.DataFrame, columns: list[str]) -> pl.DataFrame:
    """Number those alike, so that each is paired once."""
    if "occurrence" not in columns:
        return side
    same = [column for column in columns if column != "occurrence"]
    return side.with_columns(occurrence=pl.int_range(pl.len()).over(same))

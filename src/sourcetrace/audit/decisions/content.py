"""What a decision is about: the inputs of an example under the label that it was given.

    content digest = 32 hexadecimal digits of the inputs, then 8 of the label

An example whose inputs have no known bytes stands for itself by its id.
"""

import hashlib

import polars as pl

_INPUTS = 32
_LABEL = 8


def content_digests(example_digests: pl.LazyFrame | pl.DataFrame) -> pl.DataFrame:
    """Return `example_id` and `content_digest` of every example.

    Args:
        example_digests: `schemas.ExampleDigests`.
    """
    inputs = pl.col("input_digest")
    itself = pl.when(inputs.is_null()).then(pl.format("id\0{}", "example_id"))
    label = pl.format("{}\0{}", *(pl.col(one).fill_null("") for one in ("label", "target_digest")))
    digest = pl.coalesce(inputs, _digest(itself, _INPUTS)) + _digest(label, _LABEL)
    return example_digests.lazy().select("example_id", content_digest=digest).collect()


def inputs_of(content_digest: str) -> str:
    """Return the part of a content digest that does not depend on the label."""
    return content_digest[:_INPUTS]


def inputs_part() -> pl.Expr:
    """Return the same of a column `content_digest`."""
    return pl.col("content_digest").str.head(_INPUTS)


def _digest(texts: pl.Expr, digits: int) -> pl.Expr:
    """Return the first hexadecimal digits of each text's digest; a million labels are a few."""

    def digests(column: pl.Series) -> pl.Series:
        each = column.drop_nulls().unique()
        found = [hashlib.sha256(one.encode()).hexdigest()[:digits] for one in each]
        new = pl.Series(found, dtype=pl.String)
        return column.replace_strict(each, new, default=None, return_dtype=pl.String)

    return texts.map_batches(digests, return_dtype=pl.String)

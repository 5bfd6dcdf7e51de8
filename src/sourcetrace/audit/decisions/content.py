"""What a decision is about: the inputs of an example under the label that it was given.

    content digest = 32 hexadecimal digits of the inputs, then 8 of the label

An example whose inputs have no known bytes stands for itself by its id.
"""

import hashlib

import polars as pl

_INPUTS = 32
_LABEL = 8


def content_digests(example_digests: pl.DataFrame) -> pl.DataFrame:
    """Return `example_id` and `content_digest` of every example.

    Args:
        example_digests: `schemas.ExampleDigests`.
    """
    columns = ("example_id", "label", "input_digest", "target_digest")
    found = [
        (inputs or _hexadecimal(f"id\0{name}", _INPUTS))
        + _hexadecimal(f"{label or ''}\0{target or ''}", _LABEL)
        for name, label, inputs, target in example_digests.select(columns).iter_rows()
    ]
    return example_digests.select("example_id", content_digest=pl.Series(found, dtype=pl.String))


def inputs_of(content_digest: str) -> str:
    """Return the part of a content digest that does not depend on the label."""
    return content_digest[:_INPUTS]


def inputs_part() -> pl.Expr:
    """Return the same of a column `content_digest`."""
    return pl.col("content_digest").str.head(_INPUTS)


def _hexadecimal(text: str, digits: int) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:digits]

"""A decision is about inputs and a label, by digests that earlier decisions were written with."""

import hashlib

import polars as pl

from sourcetrace.audit.decisions.content import content_digests


def test_digests_are_of_the_inputs_then_of_the_label():
    rows = [("a", "3", "1" * 32, None), ("b", None, None, "t"), ("c", "3", None, None)]
    columns = ("example_id", "label", "input_digest", "target_digest")
    table = pl.DataFrame(rows, schema=dict.fromkeys(columns, pl.String), orient="row")

    def begins(text, digits):
        return hashlib.sha256(text.encode()).hexdigest()[:digits]

    assert content_digests(table)["content_digest"].to_list() == [
        "1" * 32 + begins("3\0", 8),
        begins("id\0b", 32) + begins("\0t", 8),
        begins("id\0c", 32) + begins("3\0", 8),
    ]

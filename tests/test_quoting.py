"""What keeps a spreadsheet from running text is added where it must be, and taken away again."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sourcetrace.quoting import quoted, unquoted

FORMULAS = ["=1", " \t+1+a", "\t7", "\u200b=1", "\u00a0＝1", "-", "-1+cmd|x", "'=1", "''@x"]


def shown(*texts):
    return pl.DataFrame({"text": texts}, schema={"text": pl.String}).select(quoted(pl.col("text")))


@pytest.mark.parametrize("text", FORMULAS)
def test_a_quote_stands_before_what_would_run(text):
    assert shown(text)["text"].to_list() == [f"'{text}"]


@pytest.mark.parametrize("text", ["a=1", "", "'a'", "-1", "+1.5e-3", "-0,5", "7", None])
def test_everything_else_stays(text):
    assert shown(text)["text"].to_list() == [text]


@given(st.lists(st.text(st.sampled_from("'=+-@＝ \t\r\u200b1a.(\n"), max_size=6)))
def test_what_was_quoted_comes_back_and_different_texts_stay_so(texts):
    found = shown(*texts)
    assert found.select(unquoted(pl.col("text")))["text"].to_list() == texts
    assert found["text"].n_unique() == len(set(texts))

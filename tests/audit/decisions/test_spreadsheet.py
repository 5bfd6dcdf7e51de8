"""A quote that keeps a spreadsheet from running text is taken away again."""

import polars as pl
import pytest

from sourcetrace.audit.decisions.spreadsheet import unquoted
from sourcetrace.reporting.review import spreadsheet_text


@pytest.mark.parametrize(
    "text", ["=1", " \t+1", "\t7", "\u200b=1", "\u00a0＝1", "-", "a=1", "", "'a'"]
)
def test_what_was_quoted_comes_back(text):
    quoted = pl.select(spreadsheet_text(pl.lit(text))).item()
    assert unquoted(quoted) == text

"""Whatever stands in a label, Markdown shows it as it is."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from sourcetrace.formats import safe_text
from sourcetrace.reporting.templating import _code_span, _escape_markdown

MARKDOWN = MarkdownIt("gfm-like", {"linkify": False})
TEXT = st.text(
    st.characters(blacklist_categories=["C", "Z"]) | st.sampled_from(" \n`|_*#<[&\x00\x1b\u202e")
)


def inline(text):
    (token,) = [token for token in MARKDOWN.parse(text) if token.type == "inline"]
    return token.children


@settings(derandomize=True, deadline=None)
@given(TEXT)
@pytest.mark.parametrize("before", ["", "- "])
def test_text_stays_text(before, text):
    shown = " ".join(safe_text(text).split())
    if not shown:
        return
    children = inline(before + _escape_markdown(text))
    assert {child.type for child in children} <= {"text", "text_special"}
    assert "".join(child.content for child in children) == shown


@settings(derandomize=True, deadline=None)
@given(TEXT, TEXT)
def test_a_table_keeps_its_two_cells(first, second):
    table = (
        f"| a | b |\n| --- | --- |\n| {_escape_markdown(first)} | {_code_span('x' + second)} |\n"
    )
    cells = [token for token in MARKDOWN.parse(table) if token.type == "td_open"]
    assert len(cells) == 2
    (_, _, shown, code) = [token for token in MARKDOWN.parse(table) if token.type == "inline"]
    assert "".join(child.content for child in shown.children) == " ".join(safe_text(first).split())
    assert [child.type for child in code.children] == ["code_inline"]


def test_names_stay_readable():
    assert _escape_markdown("harmful_share is 0.2") == "harmful_share is 0.2"

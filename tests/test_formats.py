"""Numbers never read as an exact 0 % or 100 % that they are not."""

import math
import unicodedata
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sourcetrace.formats import (
    format_bytes,
    format_correlation,
    format_duration,
    format_noun,
    format_number,
    format_share,
    format_with_error,
    safe_text,
    shorten,
    with_environment,
)


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, "0 %"),
        (0.0004, "< 0.1 %"),
        (0.08, "8 %"),
        (0.4521, "45.2 %"),
        (0.99996, "> 99.9 %"),
        (1.0, "100 %"),
        (None, "—"),
        (math.nan, "—"),
    ],
)
def test_share(share, text):
    assert format_share(share) == text.replace(" ", "\u00a0")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (-0.83812, "−0.838"),
        (999.7, "1,000"),
        (1234567.0, "1,234,567"),
        (3.2e-7, "3.2e-7"),
        (-4.5e12, "−4.5e12"),
        (-math.inf, "−∞"),
        (None, "—"),
        (math.nan, "—"),
    ],
)
def test_number(value, text):
    assert format_number(value) == text


def test_signed_numbers_say_so():
    assert [format_number(v, signed=True) for v in (0.5, 0.0, -0.5)] == ["+0.5", "0", "−0.5"]


def test_bytes_change_unit_before_the_digits_run_out():
    assert [format_bytes(n) for n in (512, 999_700, 2_340_000)] == [
        "512\u00a0B",
        "1\u00a0MB",
        "2.34\u00a0MB",
    ]


def test_nouns_agree():
    assert format_noun(1, "query", "queries") == "1 query"
    assert format_noun(1200, "query", "queries") == "1,200 queries"


def test_shorten_keeps_short_text_and_marks_a_cut():
    assert shorten("abc", 3) == "abc"
    assert shorten("abcd", 3) == "ab…"


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (31.7001, 20.48, "+31.7 ± 20"),
        (-1234.0, 123.0, "−1,234 ± 120"),
        (2.0, 0.0, "+2"),
        (2.0, None, "+2"),
        (2.0, math.nan, "+2"),
    ],
)
def test_an_error_stands_beside_its_value_where_there_is_one(value, error, text):
    assert format_with_error(value, error).replace("\u00a0", " ") == text


ANY_TEXT = st.text(st.characters() | st.sampled_from("\x00\x07\x1b\ufffe\uffff\u202e\u2028a\n\t"))


@settings(derandomize=True, deadline=None)
@given(ANY_TEXT)
@example("".join(map(chr, range(32))) + "\ufffe\uffff\u202e\u2066\ud800\U0001fffe\ufeff")
def test_safe_text_can_be_written_anywhere_and_shows_what_was_there(text):
    shown = safe_text(text)
    ElementTree.fromstring(f"<a>{escape(shown)}</a>")
    shown.encode()
    kinds = {unicodedata.category(c) for c in shown} | {unicodedata.bidirectional(c) for c in shown}
    assert not kinds & {"Cs", "Zl", "Zp", "LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI"}
    assert all(c in "\n\t" for c in shown if unicodedata.category(c) == "Cc")
    assert safe_text(shown) == shown
    if text.isascii() and text.isprintable():
        assert shown == text


def test_safe_text_leaves_languages_and_emoji_alone_and_cuts():
    for text in ("naïve 学習 \u200d👩\u200d🔬 می\u200cخواهم", "two\nlines\tand a tab"):
        assert safe_text(text) == text
    assert safe_text("a\x00b") == "a\\u0000b"
    assert safe_text("x" * 10_000, 80) == "x" * 79 + "…"


def test_a_correlation_is_1_only_where_it_is():
    values = [1.0, 0.9999, 0.5, -0.25, None]
    assert [format_correlation(v) for v in values] == ["1.00", "0.99", "0.50", "−0.25", "—"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 s"), (75.4, "75 s"), (119.8, "2 min"), (600, "10 min"), (5000, "1 h 23 min")],
)
def test_durations(seconds, text):
    assert format_duration(seconds) == text.replace(" ", "\u00a0")


def test_commands_run_in_the_environment_of_the_audit():
    text = "Run `kedro run --pipelines audit,gate` again, then kedro run --pipelines gate."
    assert with_environment(text, "") == text
    assert with_environment(with_environment(text, "my env"), "my env") == (
        "Run `kedro run --pipelines audit,gate --env 'my env'` again, then "
        "kedro run --pipelines gate --env 'my env'."
    )

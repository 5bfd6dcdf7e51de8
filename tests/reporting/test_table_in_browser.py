"""The table of suspects as a person uses it: in Chromium, by mouse and keyboard, from a file."""

import csv
import re
from dataclasses import replace

import polars as pl
import pytest

from sourcetrace.quoting import unquoted
from tests.reporting.content import page_content

pytestmark = pytest.mark.browser

AWKWARD = [
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "\"quoted\", 'so'\nand on",
    "\u202etfel-ot-thgir\u2066",
    "🙂👩\u200d👩\u200d👧",
    "x" * 10_000,
    "=1+1",
    "+1",
    "-2+3",
    "@SUM(A1)",
    "\t@SUM(A1)",
    "'-2",
    "＋3",
    "\u200b=4",
    "__proto__",
    "",
]


def table(page):
    return page.locator("table.suspects tbody tr:visible")


def ranks(page):
    return [int(text) for text in table(page).locator("td:nth-child(2)").all_inner_texts()]


def exported(page):
    """Return the rows of decisions.csv, as the file has them."""
    with page.expect_download() as download:
        page.get_by_role("button", name="Export decisions.csv").click()
    assert download.value.suggested_filename == "decisions.csv"
    text = download.value.path().read_bytes().decode("utf-8")
    return list(csv.DictReader(text.splitlines(keepends=True)))


def test_headings_sort_and_say_so(opened):
    page = opened(page_content(60, suspects=12))
    assert ranks(page) == list(range(1, 13))
    heading = page.locator(".suspects thead th", has_text="Loss")
    heading.get_by_role("button").press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending"
    losses = page_content(60, suspects=12).review_list.head(12).sort("loss")
    assert ranks(page) == losses["rank"].to_list()
    heading.get_by_role("button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    assert ranks(page) == losses["rank"].to_list()[::-1]
    assert page.locator("[aria-sort]").count() == 1


def test_search_and_filters_leave_what_is_asked_for(opened):
    content = page_content(60, suspects=12)
    named = pl.when(pl.col("rank") == 5).then(pl.lit("North wing")).otherwise(pl.lit("south"))
    page = opened(replace(content, review_list=content.review_list.with_columns(region=named)))
    page.get_by_label("Search").fill("WING")
    assert ranks(page) == [5]
    assert "1 of 12 rows shown" in page.get_by_role("status").inner_text()
    page.get_by_role("button", name="Clear").click()
    table(page).nth(11).wait_for()
    page.get_by_label("Given", exact=True).select_option("1")
    assert ranks(page) == [2, 5, 8, 11]
    page.get_by_label("Suggested").select_option("relabel")
    assert ranks(page) == [5, 11]


def test_decisions_are_exported_kept_and_taken_back(opened):
    content = page_content(60, suspects=12)
    digests = pl.format("{}c", pl.col("rank"))
    before = pl.when(pl.col("rank") == 5).then(pl.lit("unsure"))
    review_list = content.review_list.with_columns(content_digest=digests, decision=before)
    page = opened(replace(content, review_list=review_list))
    assert page.get_by_role("button", name="Export").is_disabled()
    first = table(page).nth(0)
    first.get_by_label("Decision for").select_option("relabel")
    assert first.get_by_label("New label for").input_value() == "1"  # what the model says
    first.get_by_label("New label for").select_option("2")
    first.get_by_placeholder("note").fill("a seven, really")
    table(page).nth(1).get_by_label("Select").check()
    table(page).nth(2).get_by_label("Select").check()
    assert "2 selected" in page.locator(".decide").inner_text()
    page.get_by_label("Decision for the selected rows").select_option("keep")
    page.get_by_role("button", name="Apply to selected").click()
    table(page).nth(3).get_by_label("Decision for").select_option("remove")
    page.reload()
    table(page).nth(3).get_by_label("Decision for").select_option("")
    assert "3 decided here" in page.get_by_role("status").inner_text()
    page.get_by_label("Decision", exact=True).select_option("decided")
    assert ranks(page) == [1, 2, 3, 5]
    assert exported(page) == [
        {
            "example_id": f"scan-0000{place}",
            "content_digest": f"{place + 1}c",
            "decision": decision,
            "new_label": label,
            "note": note,
            "scores_digest": "0" * 64,
        }
        for place, (decision, label, note) in enumerate(
            [("relabel", "2", "a seven, really"), ("keep", "", ""), ("keep", "", "")]
        )
    ]


def test_a_label_that_does_not_exist_is_not_exported(opened):
    page = opened(page_content(200, suspects=3, label="word ", classes=60))
    first = table(page).nth(0)
    first.get_by_label("Decision for").select_option("relabel")
    first.get_by_label("New label for").fill("word 999")
    first.get_by_label("New label for").blur()
    assert first.get_by_label("New label for").get_attribute("aria-invalid") == "true"
    assert "1 without a new label that exists" in page.get_by_role("status").inner_text()
    assert page.get_by_role("button", name="Export").is_disabled()
    first.get_by_label("New label for").fill("word 7")
    first.get_by_label("New label for").blur()
    assert [row["new_label"] for row in exported(page)] == ["word 7"]


def test_a_relabelling_needs_a_label_and_another_one(opened):
    content = page_content(60, suspects=3)
    believed = content.review_list.with_columns(
        predicted_label="given_label", suggested_label=pl.lit(None, pl.String)
    )
    page = opened(replace(content, review_list=believed))
    table(page).nth(0).get_by_label("Decision for").select_option("relabel")
    label = table(page).nth(0).get_by_label("New label for")
    assert label.input_value() == ""
    label.select_option(believed["given_label"][0])
    assert label.get_attribute("aria-invalid") == "true"
    assert page.get_by_role("button", name="Export").is_disabled()
    page = opened(page_content(60, suspects=3, labelled=False))
    assert page.locator(".chooser option[value=relabel]").count() == 0


def test_every_id_label_and_note_survives(opened):
    count = len(AWKWARD)
    content = page_content(count, suspects=count, pictured=False)
    ids = pl.Series([f"{text}#{place}" for place, text in enumerate(AWKWARD)])
    labels = pl.Series(AWKWARD)
    page = opened(
        replace(
            content,
            review_list=content.review_list.with_columns(
                example_id=ids,
                given_label=labels,
                predicted_label=labels.reverse(),
                reason=labels,
                text=labels,
            ),
        )
    )
    assert table(page).count() == count
    page.get_by_label("Select all rows shown").check()
    page.get_by_label("Decision for the selected rows").select_option("unsure")
    page.get_by_role("button", name="Apply to selected").click()
    table(page).nth(0).get_by_placeholder("note").fill("=cmd|' /C calc'!A1")
    rows = exported(page)
    assert not any(re.match(r"\s*[=+\-@＝＋－＠\t\r]", row["example_id"]) for row in rows)
    found = [row["example_id"] for row in rows]
    assert pl.select(unquoted(pl.lit(pl.Series(found)))).to_series().to_list() == ids.to_list()
    assert rows[0]["note"] == "'=cmd|' /C calc'!A1"


def test_without_a_script_it_is_a_plain_table(opened):
    page = opened(page_content(60, suspects=12), java_script_enabled=False)
    assert table(page).count() == 12
    assert page.locator(".tools:visible").count() == 0
    assert page.locator(".suspects thead th:visible").count() == 8


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_nothing_is_cut_at_any_width(opened, width):
    page = opened(page_content(60, suspects=12), viewport={"width": width, "height": 800})
    for place in (page.locator("html"), page.locator(".scroll.wide")):
        assert place.evaluate("one => one.scrollWidth - one.clientWidth") <= 0

"""The page: one file, nothing fetched, everything escaped, the same bytes every time."""

import dataclasses
import re
from html.parser import HTMLParser

import polars as pl
import pytest

from sourcetrace.reporting.drawing import Ink
from tests.reporting.content import ground_truth, page_content


class Elements(HTMLParser):
    """Collect start tags with their attributes, and the text."""

    def __init__(self, page):
        super().__init__()
        self.tags = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def page():
    return page_content(80, suspects=30).render()


def assert_self_contained(page):
    elements = Elements(page)
    assert not elements.of("script")
    assert {a["href"] for a in elements.of("link")} == {"data:,"}
    assert all(a["href"].startswith("#") for a in elements.of("a"))
    assert all(a["src"].startswith("data:image/png;base64,") for a in elements.of("img"))
    for _, attributes in elements.tags:
        assert not [name for name in attributes if name.startswith("on")]
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)


def test_it_needs_nothing_else(page):
    assert_self_contained(page)
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in [
        a.get("content") for a in Elements(page).of("meta")
    ]


def test_it_is_readable_without_seeing_it(page):
    elements = Elements(page)
    assert elements.of("html")[0]["lang"] == "en"
    assert len(elements.of("h1")) == 1
    assert all(a["scope"] in ("col", "row") for a in elements.of("th"))
    assert all("given label" in a["alt"] for a in elements.of("img"))
    assert all(a["aria-hidden"] == "true" for a in elements.of("svg"))
    images = [a for _, a in elements.tags if a.get("role") == "img"]
    assert len(images) == len(elements.of("svg"))
    assert all(a["aria-label"] for a in images)
    ids = [a["id"] for _, a in elements.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for a in elements.of("a")} <= set(ids)


def test_every_chart_colour_has_a_dark_one(page):
    for ink in Ink:
        assert f'[stroke="{ink.light}"] {{ stroke: {ink.dark}; }}' in page
        assert f'[fill="{ink.light}"] {{ fill: {ink.dark}; }}' in page


def test_it_says_the_result_and_that_nothing_is_verified(page):
    text = Elements(page).text
    assert "30 of 80 training examples should be looked at first" in text
    assert "Not verified:" in text
    assert "1 parameter with 16 values" in text
    assert "Would plain loss have done?" in text


def test_the_same_rows_in_any_order_give_the_same_bytes(page):
    content = page_content(80, suspects=30)
    shuffled = {
        name: getattr(content, name).sample(fraction=1, shuffle=True, seed=3)
        for name in ("review_list", "segment_contributions", "example_signals")
    }
    assert dataclasses.replace(content, **shuffled).render() == page


def test_everything_from_data_is_escaped():
    bad = "<script>alert('x\"&')</script>"
    content = page_content(prefix=bad, label=bad, reason=bad, task=bad, method=bad)
    content = dataclasses.replace(
        content,
        checkpoint_manifest=content.checkpoint_manifest.with_columns(
            file=pl.lit(bad), stage=pl.lit(bad)
        ),
        unattributed_parameters=content.unattributed_parameters.with_columns(
            parameter=pl.lit(bad), reason=pl.lit(bad)
        ),
        details=content.review_list.select("example_id", **{bad: pl.lit(bad)}),
    )
    page = dataclasses.replace(content, ground_truth=ground_truth(bad, "loss")).render()
    assert_self_contained(page)
    assert bad in Elements(page).text


@pytest.mark.parametrize(
    "options",
    [
        {"examples": 1, "suspects": 1},
        {"examples": 1, "suspects": 0},
        {"suspects": 40, "method": "one of tomorrow"},
        {"labelled": False, "predicted": False, "pictured": False},
        {
            name: getattr(page_content(), name).clear()
            for name in ("segment_contributions", "example_signals", "curvature_spectra")
        },
        {
            "predicted": False,
            "unattributed_parameters": page_content().unattributed_parameters.clear(),
        },
    ],
    ids=", ".join,
)
def test_gaps_leave_a_whole_page(options):
    page = page_content(**options).render()
    assert not re.search(r"\b(nan|NaN|undefined|null)\b", page)
    assert page.rstrip().endswith("</html>")


def test_without_suspects_it_says_so():
    page = page_content(suspects=0).render()
    assert "Nothing to look at first" in page
    assert "<img" not in page


def test_many_examples_keep_it_small():
    page = page_content(60_000, suspects=4_800).render()
    elements = Elements(page)
    assert len(page.encode()) < 800_000
    assert len(elements.of("img")) == 48
    assert "The first 48 of 4,800 suspects" in elements.text
    assert "The first 200 of 60,000 rows" in elements.text
    assert "data/08_reporting/review_list.csv" in elements.text


def test_details_stand_in_for_pictures():
    content = page_content(pictured=False, labelled=False, predicted=False)
    columns = {f"column_{i}": pl.lit(i) for i in range(6)}
    details = content.review_list.select(
        "example_id",
        amount=pl.lit(1234.567),
        note=pl.lit("long " * 100),
        missing=pl.lit(None, dtype=pl.String),
        prompt=pl.lit(""),
        vector=pl.concat_list("loss", "loss"),
        **columns,
    )
    page = dataclasses.replace(content, details=details).render()
    text = Elements(page).text
    assert "1,235" in text
    assert "long " * 40 in text
    assert "long long…" in text
    assert "prompt" not in text
    assert "given label" not in text
    assert "vector" not in text
    assert "and 1 more column\n" in text
    assert "<img" not in page


def test_an_empty_review_list_is_refused():
    content = page_content()
    with pytest.raises(ValueError, match="expected one row a training example"):
        dataclasses.replace(content, review_list=content.review_list.clear()).render()


def page_with(truth):
    content = page_content(80, suspects=30)
    return dataclasses.replace(content, ground_truth=truth).render()


def test_the_ground_truth_is_a_section_and_changes_nothing_else(page):
    full = page_with(ground_truth())
    (section,) = re.findall('<section id="ground-truth.*?</section>\n', full, re.DOTALL)
    assert full.replace(section, "") == page
    assert_self_contained(full)
    text = Elements(full).text
    assert "10 label errors were planted before training." in text
    assert "“review list” finds 8 of them among its first 10 examples, more than any other" in text
    ids = [a["id"] for _, a in Elements(full).tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert page_with(ground_truth(digest="1" * 64)) == page


def test_a_tie_names_no_single_best():
    first, second = ground_truth().rankings
    tied = (first, second.model_copy(update={"found": first.found}))
    page = page_with(ground_truth().model_copy(update={"rankings": tied}))
    assert "more than any other" not in page


UNSAFE = "".join(map(chr, range(32))).replace("\n", "").replace("\t", "") + "\ufffe\uffff\u202e\x7f"


@pytest.mark.parametrize(
    "unsafe", [UNSAFE, "x" * 10_000, UNSAFE * 300], ids=["few", "long", "many"]
)
def test_what_nobody_can_see_is_neither_on_the_page_nor_ends_the_process(unsafe):
    content = page_content(prefix=unsafe, label=unsafe, reason=unsafe, task=unsafe, method=unsafe)
    names = content.review_list.select("example_id", **{unsafe: pl.lit(unsafe)})
    manifest = content.checkpoint_manifest.with_columns(file=pl.lit(unsafe), stage=pl.lit(unsafe))
    page = dataclasses.replace(
        content,
        details=names,
        checkpoint_manifest=manifest,
        ground_truth=ground_truth(unsafe, "loss"),
    ).render()
    assert not set(page) & set(UNSAFE)
    assert "x" * 2001 not in page
    assert_self_contained(page)

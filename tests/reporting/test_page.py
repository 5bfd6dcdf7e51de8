"""The page: one file, nothing fetched, everything escaped, the same bytes every time."""

import base64
import dataclasses
import hashlib
import json
import re
from html.parser import HTMLParser

import polars as pl
import pytest

from sourcetrace.parameters import RegisteredModelParameters
from sourcetrace.reporting.records import AuditRun
from sourcetrace.reporting.templating import Ink
from tests.reporting.content import ground_truth, page_content


class Elements(HTMLParser):
    """Collect start tags with their attributes, the text, and scripts."""

    def __init__(self, page):
        super().__init__()
        self.tags = []
        self.text = ""
        self.scripts = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.cdata_elem == "script":
            self.scripts.append(data)
        else:
            self.text += data

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def page():
    return page_content(80, suspects=30).render()


def assert_self_contained(page):
    elements = Elements(page)
    scripts = [one for one in elements.scripts if one.startswith('"use strict"')]
    for data in set(elements.scripts) - set(scripts):
        assert json.loads(data)
    hashes = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
    (policy,) = [a["content"] for a in elements.of("meta") if "http-equiv" in a]
    assert policy == (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src "
        + " ".join(f"'sha256-{one}'" for one in hashes)
    )
    assert {a["href"] for a in elements.of("link")} == {"data:,"}
    assert all(a["href"].startswith("#") for a in elements.of("a"))
    assert all(a["src"].startswith("data:image/png;base64,") for a in elements.of("img"))
    for _, attributes in elements.tags:
        assert not [name for name in attributes if name.startswith("on")]
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)


def test_it_needs_nothing_else(page):
    assert_self_contained(page)


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


def test_it_names_what_was_audited_when_and_by_which_command():
    run = AuditRun(
        scores_digest="0" * 64,
        at="2026-11-29T11:55:00+00:00",
        seconds=75.4,
        run_id="run-7",
        environment="my env",
        commit="0123456789abcdef",
        dirty=True,
    )
    model = RegisteredModelParameters(name="scans", version="3")
    content = dataclasses.replace(page_content(), run=run, model=model)
    text = Elements(content.render()).text
    assert "scans, version 3" in text
    assert "2026-11-29 11:55 UTC, in 75\u00a0s" in text
    assert "run-7" in text
    assert "0123456789ab, with changes" in text
    assert "40 examples, st1-training" in text
    # Without it, the commands would run on the demo.
    assert len(re.findall("kedro run --pipelines", text)) > 1
    commands = re.findall("kedro run --pipelines .{40}", text)
    assert all("--env 'my env'" in command for command in commands)
    other = dataclasses.replace(content, run=run.model_copy(update={"scores_digest": "1" * 64}))
    assert "run-7" not in other.render()


def test_every_chart_colour_has_a_dark_one(page):
    for ink in Ink:
        assert f'[stroke="{ink.light}"] {{ stroke: {ink.dark}; }}' in page
        assert f'[fill="{ink.light}"] {{ fill: {ink.dark}; }}' in page


def test_it_says_the_result_and_that_nothing_is_verified(page):
    text = Elements(page).text
    assert "Look at 30 of 80 training examples first" in text
    assert "Not verified:" in text
    assert "1 parameter with 16 values" in text
    assert "Would sorting by loss have found them?" in text


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
        review_list=content.review_list.with_columns(**{bad: pl.lit(bad)}),
        data_digests={"training": bad, "queries": bad},
        run=AuditRun(scores_digest="0" * 64, at=bad, run_id=bad, environment=bad, commit=bad),
        model=RegisteredModelParameters(name=bad, version="1"),
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
    assert not re.search(r"\b(nan|NaN|undefined|null)\b", Elements(page).text)
    assert page.rstrip().endswith("</html>")


def test_without_suspects_it_says_so():
    page = page_content(suspects=0).render()
    assert page.count("stands out: no action is suggested") == 1
    assert "There are no suspects; review_list.csv ranks all examples." in page
    assert '#groups"' not in page
    assert "<img" not in page


def test_many_examples_keep_it_small():
    page = page_content(60_000, suspects=4_800).render()
    elements = Elements(page)
    assert len(page.encode()) < 800_000
    assert len(elements.of("img")) == 60
    assert "300 of 4,800 suspects" in elements.text
    assert "the rest is in review_list.csv" in elements.text


def test_the_tasks_own_columns_stand_in_for_pictures():
    content = page_content(pictured=False, labelled=False, predicted=False)
    columns = {f"column_{i}": pl.lit(i) for i in range(6)}
    review_list = content.review_list.with_columns(
        amount=pl.lit(1234.567),
        note=pl.lit("long " * 100),
        missing=pl.lit(None, dtype=pl.String),
        prompt=pl.lit(""),
        **columns,
    )
    page = dataclasses.replace(content, review_list=review_list).render()
    text = Elements(page).text
    assert "1,235" in text
    assert "long " * 40 in text
    assert "long long…" in text
    assert "prompt" not in text
    assert "given label" not in text
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
    names = content.review_list.with_columns(**{unsafe: pl.lit(unsafe)})
    manifest = content.checkpoint_manifest.with_columns(file=pl.lit(unsafe), stage=pl.lit(unsafe))
    page = dataclasses.replace(
        content,
        review_list=names,
        checkpoint_manifest=manifest,
        ground_truth=ground_truth(unsafe, "loss"),
    ).render()
    assert not set(page) & set(UNSAFE)
    assert "x" * 2001 not in Elements(page).text
    assert_self_contained(page)

"""The trust figure in words, and its place on the page before, after and long after."""

import io
import re

import polars as pl
import pytest
from rich.console import Console

from sourcetrace.hooks.terminal import Terminal
from sourcetrace.reporting.templating import plain_words
from sourcetrace.reporting.trust import Retraining
from tests.reporting.content import page_content, verification
from tests.reporting.test_page import Elements, assert_self_contained

DIGEST = "0" * 64
FIGURE = (
    "retrained on 30 random halves of the training data, the scores predict how queries turn out "
    "with a rank correlation of 0.43 (95 % interval 0.40 to 0.46; 0 is chance). With this much "
    "retraining noise at most 0.92 is possible."
)


def page_with(**options):
    return page_content(scores_digest=DIGEST, **options).render()


def text_of(page):
    return " ".join(Elements(page).text.split())


def removals(found):
    """Return what the page says of removals, a sentence a finding."""
    return re.findall("<p>(.*?)</p>", plain_words("removals", found))


def test_the_figure_is_one_sentence_with_its_interval_and_its_bound():
    trust = verification().figure()
    assert (trust.status, trust.text, trust.command) == ("Verified", FIGURE, "")


def test_where_no_scores_are_kept_nobody_is_sent_to_verify_them():
    trust = verification().trust_in(DIGEST, kept=False)
    assert (trust.status, trust.command) == ("Not verified", "")
    page = text_of(page_with(scores_kept=False))
    assert page.count(f"Not verified: {trust.text}") == 2
    assert "pipelines verification" not in page


def test_scores_no_better_than_chance_are_not_called_verified():
    trust = verification(low=-0.05).figure()
    assert trust.status == "Not confirmed"
    assert (
        "no better than chance (rank correlation −0.02, 95 % interval −0.05 to 0.01)" in trust.text
    )


def test_what_was_not_measured_is_not_claimed():
    summary = verification(removals=False).summary
    without = summary.with_columns(
        value=pl.when(pl.col("measure").is_in(["ceiling", "seed_agreement"]))
        .then(None)
        .otherwise("value")
    )
    assert "possible" not in Retraining(without).figure().text
    assert removals(verification(removals=False)) == []


def test_removals_are_told_with_what_they_mean_for_the_units():
    flips, slope = removals(verification())
    assert flips.startswith(
        "Without the 29 strongest helpers of a query, 45\u00a0% of the predictions"
    )
    assert flips.endswith("of the same classes, 3\u00a0%.")
    assert "changes were 0.20 (95 % interval 0.10 to 0.30) times the predicted ones" in slope
    assert "promises too much" in slope
    assert removals(verification(slope=1.05))[1].endswith("predicted ones.")
    assert "promises too little" in removals(verification(slope=2.0))[1]


def test_without_classes_the_measurements_are_told():
    summary = verification().summary.filter(~pl.col("measure").str.starts_with("flips"))
    changed, _ = removals(Retraining(summary))
    assert changed.endswith(
        "its measurement changes by −2 on average; without as many random examples, by −0.1."
    )


def test_another_recipe_is_warned_of():
    summary = verification().summary.with_columns(
        value=pl.when(measure="recipe_agreement").then(0.3).otherwise("value")
    )
    assert "Check that train() repeats the audited training" in removals(Retraining(summary))[-1]


def test_the_table_shows_counts_shares_and_missing_intervals():
    rows = {row[0]: row[1:3] for row in verification().table().rows}
    assert rows["Subsets"] == ["30", "—"]
    assert rows["Predictions changed, helpers removed: 29"] == [
        "45\u00a0%",
        "20\u00a0% to 60\u00a0%",
    ]
    assert rows["Removal slope"] == ["0.20", "0.10 to 0.30"]


def test_without_a_verification_the_page_says_so_and_what_to_run():
    page = page_with()
    assert_self_contained(page)
    assert "Not verified: no retraining has tested these scores." in text_of(page)
    assert page.count("<code>kedro run --pipelines verification</code>") == 2
    assert "trust-queries" not in page


def test_a_verification_of_these_scores_is_shown_and_leaves_the_rest_alone():
    page, verified = page_with(), page_with(verification=verification())
    assert_self_contained(verified)
    text = text_of(verified)
    assert f"Verified: {FIGURE}" in text
    assert "Not verified" not in text
    assert {"trust-queries", "trust-removals"} <= {
        attributes.get("id") for attributes in Elements(verified).of("figure")
    }
    between = re.compile(
        '<p class="trust.*?</p>|<section id="verification".*?</section>', re.DOTALL
    )
    assert between.sub("", verified) == between.sub("", page)
    assert "Not confirmed:" in text_of(page_with(verification=verification(low=-0.2)))


def test_a_verification_of_other_scores_is_not_shown():
    page = page_with(verification=verification(digest="1" * 64))
    text = text_of(page)
    assert "Not verified: the last verification was of earlier scores" in text
    assert "trust-queries" not in page
    assert FIGURE not in text
    assert f'<meta name="sourcetrace-scores" content="{DIGEST}">' in page


@pytest.mark.parametrize("options", [{"removals": False}, {"low": 0.97}, {"low": -1.0}])
def test_any_outcome_gives_a_whole_page(options):
    found = verification(**options)
    bad = "<script>alert(1)</script>"
    found = type(found)(
        found.summary.with_columns(detail=pl.lit(bad)),
        found.queries.with_columns(lds=pl.Series([1.0, -1.0] + [0.0] * 5)),
        found.removals,
    )
    page = page_with(verification=found)
    assert_self_contained(page)
    assert not re.search(r"\b(nan|NaN|undefined|null|None)\b", text_of(page))


def test_the_terminal_says_the_figure_and_where_the_page_is():
    out = io.StringIO()
    trust = verification().trust_in(DIGEST)
    Terminal(Console(file=out, width=400)).print_verification(trust, page="page.html")
    assert f"Verified: {FIGURE}" in out.getvalue()
    assert "page.html" in out.getvalue()

"""The gate's verdict, on the page and at the terminal."""

import io

import pytest
from rich.console import Console

from sourcetrace.reporting.console import print_verdict
from sourcetrace.reporting.page import insert_gate, insert_verification, render_page, scores_of
from tests.audit.gate.examples import verdict
from tests.reporting.content import page_content, verification

WARNING = verdict(
    {"metric": "harmful_share", "at_most": 0.1, "severity": "warn"},
    {"metric": "mean_query_loss", "at_most": 1.0},
    {"metric": "harmful_share", "at_most_over_baseline": {"difference": 0.1}},
    {"metric": "training_examples", "at_least_under_baseline": {"factor": 0.5}},
    harmful_share=0.2,
    mean_query_loss=0.5,
    training_examples=10.0,
)


@pytest.fixture(scope="module")
def page():
    return render_page(page_content(scores_digest="abc"))


def test_the_verdict_stands_before_everything_else_and_changes_nothing_else(page):
    judged = insert_gate(page, WARNING)
    banner = judged[judged.index("<!-- gate -->") : judged.index("<!-- /gate -->")]
    assert judged.replace(banner, "<!-- gate -->") == page
    assert "Gate: warn" in banner
    assert "harmful_share is 0.2; at most 0.1 is allowed." in banner
    assert "no baseline: gate.baseline is not set" in banner
    assert "mean_query_loss" not in banner
    assert judged.index("Gate: warn") < judged.index('class="key-figures"')
    assert scores_of(judged) == "abc"


def test_a_later_verdict_replaces_the_earlier_one(page):
    passed = verdict({"metric": "harmful_share", "at_most": 0.5}, harmful_share=0.2)
    assert insert_gate(insert_gate(page, WARNING), passed) == insert_gate(page, passed)


def test_verdict_and_verification_leave_each_other_alone(page):
    evidence = verification(digest="abc")
    one = insert_gate(insert_verification(page, evidence), WARNING)
    assert one == insert_verification(insert_gate(page, WARNING), evidence)


def test_what_comes_from_data_is_escaped(page):
    label = "<script>alert(1)</script><!-- /gate -->"
    checks = tuple(c.model_copy(update={"message": label}) for c in WARNING.checks)
    judged = insert_gate(page, WARNING.model_copy(update={"checks": checks}))
    assert "<script>" not in judged
    assert judged.count("<!-- /gate -->") == 1


def test_a_page_without_the_part_is_refused():
    with pytest.raises(ValueError, match="no single part 'gate'"):
        insert_gate("<html></html>", WARNING)


def test_the_terminal_says_what_was_exceeded_and_groups_what_was_skipped():
    output = io.StringIO()
    print_verdict(WARNING, file="gate.json", console=Console(file=output, width=300))
    lines = output.getvalue().splitlines()
    assert lines[0] == "Gate: warn – 4 checks: 1 warned, 1 passed, 2 skipped."
    assert lines[1].startswith("  warn: harmful_share is 0.2; at most 0.1 is allowed. Work through")
    assert lines[2] == (
        "  skipped: harmful_share, training_examples (no baseline: gate.baseline is not set)"
    )
    assert lines[3].endswith("gate.json")

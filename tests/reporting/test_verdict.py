"""The gate's verdict, on the page and at the terminal."""

import io
import re

import pytest
from rich.console import Console

from sourcetrace.hooks.terminal import Terminal
from sourcetrace.reporting.decided import DecisionSummary
from sourcetrace.schemas import AuditComparison
from tests.audit.comparison.examples import first_audit
from tests.audit.gate.examples import verdict
from tests.reporting.content import compared_audit, page_content

WARNING = verdict(
    {"metric": "harmful_share", "at_most": 0.1, "severity": "warn"},
    {"metric": "mean_query_loss", "at_most": 1.0},
    {"metric": "harmful_share", "at_most_over_baseline": {"difference": 0.1}},
    {"metric": "training_examples", "at_least_under_baseline": {"factor": 0.5}},
    harmful_share=0.2,
    mean_query_loss=0.5,
    training_examples=10.0,
)


def page_with(report=None):
    return page_content(scores_digest="d", gate=report).render()


def test_the_verdict_stands_first_and_counts_what_was_not_checked():
    judged = page_with(WARNING)
    (box,) = re.findall('<section class="verdict.*?</section>\n', judged, re.DOTALL)
    assert "Gate: warn</strong>, 2 of 4 checks not made" in box
    assert "harmful_share is 0.2; at most 0.1 is allowed." in box
    assert "harmful_share, training_examples: no baseline is set (gate.baseline)" in box
    assert "mean_query_loss" not in box
    assert judged.index("Gate: warn") < judged.index('class="identity"')
    assert "No gate</strong> has judged" in page_with()


def test_failures_stand_before_warnings():
    report = verdict(
        {"metric": "harmful_share", "at_most": 0.1, "severity": "warn"},
        {"metric": "mean_query_loss", "at_most": 0.1},
        harmful_share=0.2,
        mean_query_loss=0.5,
    )
    judged = page_with(report)
    assert judged.index("<b>fail:</b>") < judged.index("<b>warn:</b>")
    assert "2 checks made" in judged


def test_a_verdict_on_other_scores_is_not_shown():
    assert page_with(WARNING.model_copy(update={"scores_digest": "e"})) == page_with()


def test_what_comes_from_data_is_escaped():
    label = "<script>alert(1)</script>"
    checks = tuple(c.model_copy(update={"message": label}) for c in WARNING.checks)
    judged = page_with(WARNING.model_copy(update={"checks": checks}))
    assert label not in judged
    assert "&lt;script&gt;" in judged


def test_the_terminal_says_what_was_exceeded_and_groups_what_was_skipped():
    output = io.StringIO()
    Terminal(Console(file=output, width=300)).print_verdict(WARNING, file="gate.json")
    lines = output.getvalue().splitlines()
    assert lines[0] == "Gate: warn – 4 checks: 1 warned, 1 passed, 2 skipped."
    assert lines[1].startswith("  warn: harmful_share is 0.2; at most 0.1 is allowed. Work through")
    assert lines[2] == (
        "  skipped: harmful_share, training_examples (no baseline is set (gate.baseline))"
    )
    assert lines[3].endswith("gate.json")


@pytest.mark.parametrize("decided", [0, 1])
@pytest.mark.parametrize("suspects", [6, 5])
def test_a_verdict_on_another_list_says_so(suspects, decided):
    said = DecisionSummary(
        "0" * 64, {}, 0, 0, {"keep": 1} if decided else {}, 40, {}, sampled=False
    )
    found = first_audit()  # of six suspects
    page = page_content(
        suspects=suspects,
        gate=verdict().model_copy(update={"scores_digest": "0" * 64}),
        comparison=compared_audit(found, AuditComparison.frame()),
        decided=said,
    ).render()
    assert ("Out of date" in page) == bool(suspects != found.suspects_now or decided)
    assert "counted 6 suspects" in page or not decided

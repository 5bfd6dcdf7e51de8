"""The gate's verdict, on the page and at the terminal."""

import io
import re

from rich.console import Console

from sourcetrace.hooks.terminal import Terminal
from tests.audit.gate.examples import verdict
from tests.reporting.content import page_content

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


def test_the_verdict_stands_before_everything_else_and_changes_nothing_else():
    judged = page_with(WARNING)
    (banner,) = re.findall('<section class="gate.*?</section>\n', judged, re.DOTALL)
    assert judged.replace(banner, "") == page_with()
    assert "Gate: warn" in banner
    assert "harmful_share is 0.2; at most 0.1 is allowed." in banner
    assert "no baseline: gate.baseline is not set" in banner
    assert "mean_query_loss" not in banner
    assert judged.index("Gate: warn") < judged.index('class="key-figures"')


def test_a_verdict_on_other_scores_is_not_shown():
    assert page_with(WARNING.model_copy(update={"scores_digest": "e"})) == page_with()


def test_what_comes_from_data_is_escaped():
    label = "<script>alert(1)</script>"
    checks = tuple(c.model_copy(update={"message": label}) for c in WARNING.checks)
    judged = page_with(WARNING.model_copy(update={"checks": checks}))
    assert "<script>" not in judged
    assert "&lt;script&gt;" in judged


def test_the_terminal_says_what_was_exceeded_and_groups_what_was_skipped():
    output = io.StringIO()
    Terminal(Console(file=output, width=300)).print_verdict(WARNING, file="gate.json")
    lines = output.getvalue().splitlines()
    assert lines[0] == "Gate: warn – 4 checks: 1 warned, 1 passed, 2 skipped."
    assert lines[1].startswith("  warn: harmful_share is 0.2; at most 0.1 is allowed. Work through")
    assert lines[2] == (
        "  skipped: harmful_share, training_examples (no baseline: gate.baseline is not set)"
    )
    assert lines[3].endswith("gate.json")

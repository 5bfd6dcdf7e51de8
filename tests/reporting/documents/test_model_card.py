"""The section of the model card: what stands in it, and what must not."""

import pytest
from markdown_it import MarkdownIt

from sourcetrace.reporting.documents.facts import render_model_card
from tests.audit.gate.examples import verdict
from tests.reporting.documents.examples import UNVERIFIED, audit_facts


def headings(text):
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(text)
    return [
        (token.tag, tokens[place + 1].content)
        for place, token in enumerate(tokens)
        if token.type == "heading_open"
    ]


def test_it_is_a_section_with_everything_a_reviewer_asks_for():
    card = render_model_card(audit_facts(model={"name": "churn", "version": 3}))
    assert headings(card) == [
        ("h2", "Training data audit"),
        ("h3", "What was audited"),
        ("h3", "Method and trust"),
        ("h3", "Findings"),
        ("h3", "Limits"),
        ("h3", "To reproduce"),
    ]
    assert "8 of 100 training examples" in card
    assert "| Model | `churn`, version 3 |" in card
    assert f"100 examples, content digest `st1-{'1' * 32}`" in card
    assert "| Checkpoints | 2, steps 10 to 2,000;" in card
    assert "0.5, 95 % interval 0.4 to 0.6" in card
    assert "https://arxiv.org/abs/2405.12186" in card
    assert f"at git revision `{'c' * 40}`, with" in card
    assert "| torch | 2.13.0+cpu |" in card


def test_it_holds_no_id_of_an_example():
    assert "secret-customer-7" not in render_model_card(audit_facts())


def test_the_same_audit_gives_the_same_text():
    assert render_model_card(audit_facts()) == render_model_card(audit_facts())


def test_what_is_not_known_is_not_claimed():
    card = render_model_card(
        audit_facts(trust=UNVERIFIED, trust_high=None, revision=None, method="influence")
    )
    assert "95 % interval" not in card
    assert "arxiv" not in card
    assert "git revision" not in card
    assert "The scores are not confirmed by retraining: nobody did." in card


def test_unattributed_parameters_are_a_limit():
    assert "25 % of the model's parameters carry no attribution" in (
        render_model_card(audit_facts(metrics={"attributed_share": 0.75})).replace("\u00a0", " ")
    )
    assert "carry no attribution" not in render_model_card(audit_facts())


def test_a_kept_curvature_is_a_limit():
    card = render_model_card(audit_facts(metrics={"curvature_moved_share": 0.015}))
    assert "no full audit: the curvature is that of earlier data" in card
    assert "are 1.5 % of these" in card.replace("\u00a0", " ")
    for full in ({"curvature_moved_share": 0.0}, {}):
        assert "no full audit" not in render_model_card(audit_facts(metrics=full))


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        (verdict({"metric": "harmful_share", "at_most": 0.5}, harmful_share=0.2), "Every check"),
        (verdict(), "No check was set"),
    ],
)
def test_a_gate_without_findings_says_so(gate, said):
    assert said in render_model_card(audit_facts(gate=gate))


def test_a_label_in_a_finding_is_text():
    report = verdict({"metric": "harmful_share", "at_most": 0.1}, harmful_share=0.2)
    check = report.checks[0].model_copy(
        update={"message": "label <script>|x|</script>\n# [y](http://z) is harmful"}
    )
    card = render_model_card(audit_facts(gate=report.model_copy(update={"checks": (check,)})))
    html = MarkdownIt("gfm-like", {"linkify": False}).render(card)
    assert "<script>" not in html
    assert 'href="http://z"' not in html
    assert len(headings(card)) == 6

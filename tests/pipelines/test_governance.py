"""The documents for reviewers: what they say of trust, and when they are made."""

import sys

import pytest

from sourcetrace.audit.gate.audit_result import AuditTrust
from sourcetrace.integrations.ml_bom import make_ml_bom
from sourcetrace.pipelines.audit import JUDGEMENT, create_stage
from sourcetrace.pipelines.governance.nodes import gather_facts
from sourcetrace.reporting.documents.facts import render_model_card
from tests.audit.gate.examples import audit_result
from tests.pipelines.test_gate import DIGEST, judged
from tests.reporting.content import verification


@pytest.mark.parametrize("installed", [True, False])
def test_the_bill_of_materials_is_made_where_its_extra_is_installed(monkeypatch, installed):
    if not installed:
        monkeypatch.setitem(sys.modules, "cyclonedx", None)
    for stage in ("governance", "gate"):  # imported anew
        monkeypatch.delitem(sys.modules, f"sourcetrace.pipelines.{stage}.nodes", raising=False)
    made = create_stage(*JUDGEMENT)
    assert ("ml_bom" in made.all_outputs()) == installed
    assert made.nodes[-1].name == "enforce_gate"


@pytest.mark.parametrize("registered", [None, {"name": "churn", "version": 3}])
def test_the_documents_have_the_figure_of_these_scores_alone(registered):
    report, _, _ = judged(summary=verification(digest=DIGEST).summary)
    unverified, _, _ = judged(summary=verification(digest="other").summary)

    def figure(verdict, summary, trust):
        facts = gather_facts(
            audit_result=audit_result(trust=trust, metrics=verdict["metrics"]).model_dump(),
            gate_report=verdict,
            verification_summary=summary,
            code_revision={},
            audit_run={"scores_digest": DIGEST, "at": "", "environment": "mine"},
            registered_model=registered,
        )
        card, bom = render_model_card(facts), make_ml_bom(facts)
        model = bom["metadata"]["component"]
        assert model["name"] == (registered["name"] if registered else "Task")
        metrics = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
        return card, {one["type"]: one for one in metrics}.get("trust_lds")

    values = report["metrics"]
    trust = AuditTrust(
        status="Verified", text="t", lds=values["trust_lds"], lds_low=values["trust_lds_low"]
    )
    card, found = figure(report, verification(digest=DIGEST).summary, trust)
    assert float(found["confidenceInterval"]["upperBound"]) > values["trust_lds"]
    assert "95 % interval" in card
    assert "kedro run --pipelines audit --env mine\n" in card
    assert "`kedro run --pipelines verification --env mine` repeats" in card
    none = AuditTrust(status="Not verified", text="t", lds=None, lds_low=None)
    card, found = figure(unverified, verification(digest="other").summary, none)
    assert found is None
    assert "95 % interval" not in card

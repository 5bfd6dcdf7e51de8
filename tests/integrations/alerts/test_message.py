"""What an alert says, and that it has nothing of the data."""

import json

import pytest

from sourcetrace.integrations.alerts.message import EndedAudit
from tests.audit.gate.examples import verdict

SECRET_LABEL, SECRET_ID = "label-Müller", "customer 17"

SUMMARY = {
    "training_examples": 100,
    "queries": 10,
    "runs": 1,
    "checkpoints": 3,
    "segments": 2,
    "actions": {"remove": 0, "relabel": 3, "review": 5, "keep": 92},
    "suspects": [{"example_id": SECRET_ID, "given_label": SECRET_LABEL}],
    "trust": {"text": SECRET_LABEL},
}


def failed():
    report = verdict(
        {"metric": "harmful_share", "at_most": 0.1},
        {"metric": "class_concentration", "at_most": 3.0, "severity": "warn"},
        harmful_share=0.25,
        class_concentration=7.0,
    )
    checks = tuple(
        check.model_copy(update={"message": f"most in {SECRET_LABEL}", "reason": SECRET_ID})
        for check in report.checks
    )
    return report.model_copy(update={"checks": checks})


def ended(**changes):
    values = {
        "outcome": "fail",
        "project": "churn-project",
        "model": ("churn", "3"),
        "run_id": "r1",
        "run_url": "https://mlflow.example/#/experiments/1/runs/r1",
        "gate": failed(),
        "summary": SUMMARY,
    }
    return EndedAudit(**{**values, **changes})


def test_a_failed_audit_is_told_in_words_and_in_figures():
    payload = ended().payload()
    assert payload["text"].splitlines() == [
        "Sourcetrace audit of churn version 3: fail. 2 checks: 1 failed, 1 warned.",
        "• harmful_share ≤ 0.1 (fail): 0.25",
        "https://mlflow.example/#/experiments/1/runs/r1",
    ]
    assert payload["outcome"] == "fail"
    assert payload["model"] == {"name": "churn", "version": "3"}
    assert payload["run"] == {"id": "r1", "url": "https://mlflow.example/#/experiments/1/runs/r1"}
    assert payload["metrics"] == {"harmful_share": 0.25, "class_concentration": 7.0}
    assert payload["counts"]["training_examples"] == 100
    assert payload["counts"]["relabel"] == 3
    first = payload["checks"][0]
    assert (first["status"], first["value"], first["limit"]) == ("fail", 0.25, 0.1)


def test_nothing_of_the_data_is_in_it():
    text = json.dumps(ended().payload(), ensure_ascii=False)
    assert SECRET_LABEL not in text
    assert SECRET_ID not in text


def test_its_fields_are_these_and_no_others():
    """Whoever adds one asks whether it may leave the machine."""
    payload = ended().payload()
    assert set(payload) == {
        *("schema_version", "text", "outcome", "summary", "project", "model", "run"),
        *("error", "counts", "metrics", "checks"),
    }
    assert set(payload["checks"][0]) == {
        *("name", "metric", "status", "value", "limit", "baseline"),
    }


def test_an_error_is_told_by_its_name_alone():
    audit = ended(outcome="error", error="DataValidationError", gate=None, summary=None, model=None)
    payload = audit.payload()
    assert payload["text"].startswith(
        "Sourcetrace audit of project churn-project: error. "
        "It ended with an error (DataValidationError): there is no verdict."
    )
    assert (payload["counts"], payload["metrics"], payload["checks"]) == ({}, {}, [])


def test_exchanged_training_data_is_told_though_the_gate_passed():
    passed = verdict({"metric": "harmful_share", "at_most": 0.1}, harmful_share=0.0)
    payload = ended(gate=passed).payload()
    assert "trained on other data than was audited" in payload["text"]
    assert payload["outcome"] == "fail"


@pytest.mark.parametrize("name", ["<!channel>", "@everyone", "[x](http://evil)", "a\nb", "n" * 900])
def test_a_models_name_mentions_nobody_and_links_nowhere(name):
    (first, *_) = ended(model=(name, "3")).payload()["text"].splitlines()
    said = first.split(": fail.")[0]
    assert not set(said) & set("<>@[]()")
    assert len(said) < 150

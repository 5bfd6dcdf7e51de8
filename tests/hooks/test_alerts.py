"""When a run is told of, and that one command tells once."""

import logging
import sys
from types import SimpleNamespace

import mlflow
import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Pipeline

from sourcetrace.audit.gate.report import GateFailed
from sourcetrace.datasets import AuditLogDataset
from sourcetrace.errors import InputError
from sourcetrace.hooks.alerts import AlertHook
from sourcetrace.integrations import alerts
from sourcetrace.integrations.alerts import delivery
from sourcetrace.integrations.alerts.outbox import OUTBOX
from sourcetrace.tracking.history.audit_log import AuditHistory
from tests.audit.gate.examples import verdict
from tests.integrations.alerts.test_message import SUMMARY

CHECK = {"metric": "harmful_share", "at_most": 0.1}
REPORTS = {
    "pass": verdict(CHECK, harmful_share=0.0),
    "warn": verdict({**CHECK, "severity": "warn"}, harmful_share=1.0),
    "inconclusive": verdict({**CHECK, "severity": "inconclusive"}, harmful_share=1.0),
    "fail": verdict(CHECK, harmful_share=1.0),
}
URL = "https://chat.example/hooks/T0KEN"


@pytest.fixture(autouse=True)
def sent(monkeypatch):
    """Return the alerts that would be sent."""
    told = []
    monkeypatch.setattr(delivery, "send_alert", lambda payload, **how: told.append((payload, how)))
    monkeypatch.setenv("SOURCETRACE_ALERT_URL", URL)
    run = SimpleNamespace(info=SimpleNamespace(run_id="r1", experiment_id="7"))
    monkeypatch.setattr(mlflow, "active_run", lambda: run)
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: "https://me:pw@mlflow.example/team/")
    return told


@pytest.fixture
def catalog(tmp_path):
    return DataCatalog(
        {
            "audit_log": AuditLogDataset(str(tmp_path / "audit_log.jsonl")),
            "audit_summary": MemoryDataset(SUMMARY),
        }
    )


def record(catalog, *, status, run_id="r1", model="churn"):
    entry = {
        "at": "2027-01-01T00:00:00+00:00",
        "run_id": run_id,
        "model_name": model,
        "model_version": "3" if model else None,
        "status": status,
        "trust": "Verified",
        "suspect_fraction": 0.1,
        "training_digest": None,
        "query_digest": None,
        "report_sha256": None,
    }
    AuditHistory(catalog["audit_log"].path).append(entry)


def context_of(params):
    return SimpleNamespace(project_path="/srv/churn-project", config_loader={"parameters": params})


def run(catalog, outcome=None, *, error=None, status=None, hook=None, **params):
    """Live through a run that the gate judged, whose audit was recorded, or that broke off."""
    hook = hook or AlertHook()
    context = context_of(params)
    hook.after_context_created(context=context)
    hook.before_pipeline_run(pipeline=Pipeline([]), catalog=catalog)
    hook.after_node_run(outputs={"secret": 1})
    if outcome is not None:
        hook.after_node_run(outputs={"gate_report": REPORTS[outcome].model_dump(mode="json")})
        record(catalog, status=status or outcome)
    if outcome == "fail":
        error = GateFailed(REPORTS["fail"])
    if error is None:
        hook.after_pipeline_run()
    else:
        hook.on_pipeline_error(error=error)


def outcomes(sent):
    return [payload["outcome"] for payload, _ in sent]


@pytest.mark.parametrize(
    ("outcome", "told"),
    [("pass", []), ("warn", []), ("inconclusive", ["inconclusive"]), ("fail", ["fail"])],
)
def test_by_default_what_needs_somebody_is_told(catalog, sent, outcome, told):
    run(catalog, outcome)
    assert outcomes(sent) == told


def test_outcomes_are_a_parameter(catalog, sent):
    for outcome in REPORTS:
        run(catalog, outcome, alerts={"outcomes": ["pass", "warn"]})
    assert outcomes(sent) == ["pass", "warn"]


def test_it_says_which_version_and_where_to_look(catalog, sent):
    run(catalog, "fail")
    ((payload, how),) = sent
    assert payload["model"] == {"name": "churn", "version": "3"}
    # Without the user and the password of the server's address.
    url = "https://mlflow.example/team/#/experiments/7/runs/r1"
    assert payload["run"] == {"id": "r1", "url": url}
    assert payload["counts"]["training_examples"] == 100
    assert how["url"] == URL
    assert how["secret"] is None


def test_a_run_that_breaks_off_is_told_with_the_version_that_the_parameters_name(catalog, sent):
    named = {"registered_model": {"name": "churn", "version": 4}}
    run(catalog, error=InputError("customer 17 has no label"), tracking=named)
    ((payload, _),) = sent
    assert payload["outcome"] == "error"
    assert payload["error"] == "InputError"
    assert payload["model"] == {"name": "churn", "version": "4"}
    assert "customer 17" not in str(payload)


def test_a_verdict_that_another_run_told_is_not_told_again(catalog, sent):
    run(catalog, error=GateFailed(REPORTS["fail"]))
    assert sent == []


def test_an_error_behind_a_pass_is_an_error(catalog, sent):
    run(catalog, "pass", error=OSError("disk full"), status="error")
    assert outcomes(sent) == ["error"]


def test_exchanged_training_data_is_told_though_the_gate_passed(catalog, sent):
    run(catalog, "pass", status="fail")
    assert outcomes(sent) == ["fail"]


def test_an_earlier_audits_end_is_not_taken_for_this_ones(catalog, sent):
    record(catalog, status="fail")
    run(catalog, "pass")
    assert sent == []


@pytest.mark.parametrize("recorded", [None, "unjudged", "fail"])
def test_a_run_that_judges_nothing_and_goes_well_is_not_told(catalog, sent, recorded):
    hook = AlertHook()
    hook.after_context_created(context=context_of({}))
    hook.before_pipeline_run(pipeline=Pipeline([]), catalog=catalog)
    if recorded is not None:
        record(catalog, status=recorded)
    hook.after_pipeline_run()
    assert sent == []


@pytest.mark.parametrize(
    "address", [None, "", "ftp://chat.example", "chat.example/T0KEN", "http://"]
)
def test_without_an_address_nothing_is_sent_and_a_wrong_one_is_not_shown(
    catalog, sent, monkeypatch, caplog, address
):
    monkeypatch.delenv("SOURCETRACE_ALERT_URL")
    if address is not None:
        monkeypatch.setenv("SOURCETRACE_ALERT_URL", address)
    with caplog.at_level(logging.WARNING):
        run(catalog, "fail")
    assert sent == []
    assert ("holds no http" in caplog.text) == bool(address)
    assert "T0KEN" not in caplog.text


def test_other_variables_can_be_named(catalog, sent, monkeypatch):
    monkeypatch.setenv("OURS", "http://ours.example")
    monkeypatch.setenv("OUR_SECRET", "hunter2")
    run(catalog, "fail", alerts={"url_variable": "OURS", "secret_variable": "OUR_SECRET"})
    ((_, how),) = sent
    assert (how["url"], how["secret"]) == ("http://ours.example", "hunter2")


@pytest.mark.parametrize(
    "wrong",
    [
        {"outcomes": ["broken"]},
        {"url_variable": "https://chat.example/T0KEN"},
        {"total_seconds": 0},
        {"url": "https://chat.example/T0KEN"},
    ],
)
def test_wrong_parameters_are_refused_before_the_work_and_without_their_value(catalog, wrong):
    with pytest.raises(InputError, match=r"^alerts[.:]") as refused:
        run(catalog, "pass", alerts=wrong)
    assert "T0KEN" not in str(refused.value)


def test_a_broken_alert_leaves_the_audit_alone(catalog, monkeypatch, caplog):
    def broken(*_, **__):
        raise RuntimeError("customer 17")

    monkeypatch.setattr(delivery, "send_alert", broken)
    run(catalog, "fail")
    assert "No alert could be made (RuntimeError)" in caplog.text
    assert "customer 17" not in caplog.text


def test_a_command_of_several_pipelines_tells_of_the_last(catalog, sent):
    with OUTBOX.held() as alert:
        run(catalog, "inconclusive")
        run(catalog, "pass")
        alert.send()
    assert sent == []
    with OUTBOX.held() as alert:
        run(catalog, "pass")
        run(catalog, "fail")
        assert sent == []
        alert.send()
    assert outcomes(sent) == ["fail"]
    run(catalog, "fail")
    assert outcomes(sent) == ["fail", "fail"]


def test_a_commands_error_is_told_once_with_what_the_run_knew(catalog, sent):
    error = OSError("gone")
    with OUTBOX.held() as alert:
        run(catalog, error=error)
        alert.note_error(error)
        alert.send()
    ((payload, _),) = sent
    assert payload["run"]["id"] == "r1"


def test_an_error_before_any_pipeline_is_told_with_the_projects_parameters(
    catalog, sent, monkeypatch
):
    monkeypatch.setenv("OURS", "http://ours.example")
    hook = AlertHook()
    with OUTBOX.held() as alert:
        params = {"alerts": {"url_variable": "OURS"}}
        hook.after_context_created(context=context_of(params))
        alert.note_error(InputError("customer 17"))
        alert.send()
    ((payload, how),) = sent
    assert payload["error"] == "InputError"
    assert how["url"] == "http://ours.example"


def test_an_error_in_the_configuration_itself_is_told_with_the_defaults(sent):
    class Broken:
        project_path = "/srv/churn-project"

        @property
        def config_loader(self):
            raise ValueError("no YAML")

    with OUTBOX.held() as alert:
        AlertHook().after_context_created(context=Broken())
        alert.note_error(ValueError("no YAML"))
        alert.send()
    ((_, how),) = sent
    assert how["url"] == URL


@pytest.fixture
def without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "tenacity", None)
    monkeypatch.delitem(sys.modules, delivery.__name__)
    monkeypatch.delattr(alerts, "delivery")


@pytest.mark.usefixtures("without_the_extra")
def test_an_address_without_the_extra_is_refused_before_the_work(catalog, monkeypatch):
    with pytest.raises(InputError, match=r"pip install 'sourcetrace\[alerts\]'") as refused:
        run(catalog, "pass")
    assert "T0KEN" not in str(refused.value)
    monkeypatch.delenv("SOURCETRACE_ALERT_URL")
    run(catalog, "fail")


@pytest.mark.usefixtures("without_the_extra")
def test_a_command_that_fails_without_the_extra_says_so(caplog):
    with OUTBOX.held() as alert:
        alert.note_error(ValueError("no YAML"))
        alert.send()
    assert "its packages are not installed" in caplog.text

"""When a run records its audit, and what it takes for its outcome."""

import errno
import hashlib
import logging
import sys
from dataclasses import asdict
from types import SimpleNamespace

import mlflow
import polars as pl
import pytest
import torch
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Pipeline, node

from sourcetrace.audit.identity.audit_key import AuditKey
from sourcetrace.audit.identity.made_of import MadeOf
from sourcetrace.datasets import AuditLogDataset, CheckpointsDataset
from sourcetrace.errors import InputError
from sourcetrace.hooks import lineage as lineage_hook
from sourcetrace.hooks.lineage import LineageHook, _used_device
from sourcetrace.namespace import AuditNames
from sourcetrace.parameters import RegisteredModelParameters
from sourcetrace.pipelines.audit import create_audit
from sourcetrace.tracking.history.audit_log import AuditHistory
from sourcetrace.tracking.lineage.publish import append_row
from sourcetrace.tracking.lineage.record import AuditRecord
from sourcetrace.tracking.server.tracked import _Tracked
from sourcetrace.tracking.server.waiting_run import WaitingRun
from tests.reporting.content import verification
from tests.tracking.records import audit_record

SUMMARY = {
    "method": "source",
    "trust": {"status": "Not verified", "text": "nobody did.", "command": ""},
    "training_examples": 50,
    "queries": 5,
    "attributed_share": 0.5,
    "actions": {"remove": 0, "relabel": 1, "review": 4, "keep": 45},
}
PASSED = {"outcome": "pass", "checks": []}
FAILED = {
    "outcome": "fail",
    "checks": [
        {"name": "harmful_share ≤ 0.1", "status": "fail", "message": "0.3 is too much."},
        {"name": "lds ≥ 0.2", "status": "pass", "message": "fine"},
    ],
}


def pipeline(*outputs):
    return Pipeline([node(lambda: 0, None, name, name=name) for name in outputs])


@pytest.fixture
def catalog(tmp_path):
    page = tmp_path / "cleaning_report.html"
    page.write_text("page")
    datasets = {
        "audit_log": AuditLogDataset(str(tmp_path / "audit_log.jsonl")),
        "cleaning_report": MemoryDataset("page"),
        "parameters": MemoryDataset({}),
        "params:task": MemoryDataset({"class": "churn.Task", "arguments": {"key": "hunter2"}}),
        "params:attribution": MemoryDataset({"device": "cpu"}),
        "params:tracking": MemoryDataset({"registered_model": None}),
    }
    datasets["cleaning_report"]._filepath = page
    return DataCatalog(datasets)


@pytest.fixture
def untracked(monkeypatch):
    monkeypatch.setattr(mlflow, "active_run", lambda: None)


def run(hook, catalog, outputs, *, error=None, declared=()):
    made = pipeline(*dict.fromkeys([*outputs, *declared]))
    hook.before_pipeline_run(pipeline=made, catalog=catalog)
    hook.after_node_run(outputs=outputs)
    if error is None:
        list(hook.after_pipeline_run())
    else:
        list(hook.on_pipeline_error(error=error))
    return AuditHistory(catalog["audit_log"].path).read()


@pytest.mark.usefixtures("untracked")
@pytest.mark.parametrize(
    ("gate", "error", "status"),
    [
        (None, None, "unjudged"),
        (PASSED, None, "pass"),
        (FAILED, RuntimeError("gate"), "fail"),
        (PASSED, RuntimeError("disk full"), "error"),
        (None, RuntimeError("disk full"), "error"),
    ],
)
def test_the_outcome_is_the_gates_unless_the_run_broke_off(catalog, gate, error, status):
    outputs = {"audit_summary": SUMMARY, **({"gate_report": gate} if gate else {})}
    (row,) = run(LineageHook(), catalog, outputs, error=error)
    assert row["status"] == status
    assert row["suspect_fraction"] == pytest.approx(0.1)
    assert row["report_sha256"]


@pytest.mark.usefixtures("untracked")
def test_under_a_namespace_an_audit_is_recorded_from_its_own_entries(catalog):
    inside = DataCatalog(
        {
            AuditNames("churn_audit").full(name): catalog[name]
            for name in ["audit_log", "cleaning_report", "params:task", "params:attribution"]
        }
        | {"parameters": MemoryDataset({"churn_audit": {}})}
    )
    audit, hook = create_audit("churn_audit"), LineageHook()
    hook.before_pipeline_run(pipeline=audit, catalog=inside)
    hook.after_node_run(outputs={"audit_summary": {}, "churn_audit.audit_summary": SUMMARY})
    hook.after_node_run(outputs={"churn_audit.gate_report": FAILED})
    list(hook.on_pipeline_error(error=RuntimeError("gate")))
    (row,) = AuditHistory(catalog["audit_log"].path).read()
    assert row["status"] == "fail"
    assert row["suspect_fraction"] == pytest.approx(0.1)
    assert row["report_sha256"]


@pytest.mark.usefixtures("untracked")
def test_a_baseline_that_is_not_there_is_refused_before_any_work(catalog):
    catalog["parameters"] = MemoryDataset({"gate": {"baseline": "nowhere.json"}})
    judging, of_one_stage = pipeline("gate_report"), pipeline("audit_summary")
    with pytest.raises(InputError, match=r"gate\.baseline: there is no file nowhere\.json"):
        LineageHook().before_pipeline_run(pipeline=judging, catalog=catalog)
    LineageHook().before_pipeline_run(pipeline=of_one_stage, catalog=catalog)


@pytest.mark.usefixtures("untracked")
def test_two_audits_in_a_run_are_refused(catalog):
    both = create_audit("first") + create_audit("second")
    with pytest.raises(InputError, match=r"\('first', 'second'\).* one after the other"):
        LineageHook().before_pipeline_run(pipeline=both, catalog=catalog)


@pytest.mark.usefixtures("untracked")
def test_an_audit_that_was_to_be_judged_and_was_not_does_not_count_as_unjudged(catalog):
    (row,) = run(LineageHook(), catalog, {"audit_summary": SUMMARY}, declared=["gate_report"])
    assert row["status"] == "error"


@pytest.mark.usefixtures("untracked")
def test_a_run_that_broke_off_before_its_figures_or_audits_nothing_records_nothing(catalog):
    assert run(LineageHook(), catalog, {"scores": 1}, declared=["audit_summary"]) == []
    assert run(LineageHook(), catalog, {"other": 1}) == []


@pytest.mark.usefixtures("untracked")
def test_an_edited_history_is_said_at_the_start_of_every_audit(catalog, caplog):
    hook = LineageHook()
    run(hook, catalog, {"audit_summary": SUMMARY})
    path = catalog["audit_log"].path
    path.write_text(path.read_text().replace("unjudged", "pass"))
    with caplog.at_level(logging.WARNING):
        run(hook, catalog, {"audit_summary": SUMMARY})
    assert "AUDIT HISTORY audit_log.jsonl: Row 1 (line 1) was edited" in caplog.text


@pytest.mark.usefixtures("untracked")
@pytest.mark.parametrize(
    "wrong",
    [
        {"registered_model": {"name": "churn"}},
        {"registered_model": {"name": "churn", "version": 1, "alias": "x"}},
        {"registered_model": {"name": "churn", "version": "latest"}},
        {"registered_modle": None},
    ],
)
def test_a_wrong_reference_is_refused_before_the_work(catalog, wrong):
    catalog["params:tracking"] = MemoryDataset(wrong)
    with pytest.raises(InputError, match="tracking: expected"):
        run(LineageHook(), catalog, {"audit_summary": SUMMARY})


@pytest.mark.usefixtures("untracked")
def test_a_defect_of_the_recording_is_no_failure_of_the_audit(catalog, monkeypatch, caplog):
    def fail(*_, **__):
        raise RuntimeError("a defect")

    monkeypatch.setattr(lineage_hook, "append_row", fail)
    run(LineageHook(), catalog, {"audit_summary": SUMMARY})
    assert "could not be recorded" in caplog.text


@pytest.mark.usefixtures("untracked")
def test_an_audit_that_no_history_has_ends_with_an_error(catalog, monkeypatch):
    full = OSError(errno.ENOSPC, "No space left on device", "audit_log.jsonl")

    def fill(*_, **__):
        raise full

    monkeypatch.setattr(lineage_hook, "append_row", fill)
    outputs = {"audit_summary": SUMMARY, "gate_report": PASSED}
    with pytest.raises(InputError, match=r"not its record: .*No space left.*audit again"):
        run(LineageHook(), catalog, outputs)
    # A failed gate keeps its own error.
    run(LineageHook(), catalog, outputs, error=RuntimeError("gate"))


@pytest.fixture
def recorded(monkeypatch):
    """The records that a tracked run hands over."""
    found = []
    monkeypatch.setattr(
        mlflow, "active_run", lambda: SimpleNamespace(info=SimpleNamespace(run_id="r"))
    )
    monkeypatch.setattr(lineage_hook, "TRACKED", _Tracked(away="It is."))
    monkeypatch.setattr(lineage_hook, "_used_device", lambda _: None)
    monkeypatch.setattr(
        WaitingRun,
        "keep_audit",
        lambda _, content, **__: found.append(AuditRecord.from_json(content)),
    )
    return found


def test_the_record_holds_the_data_the_checkpoints_and_no_argument(catalog, recorded):
    manifest = pl.DataFrame(
        {
            "checkpoint_id": ["a"],
            "sha256": ["0" * 64],
            "step": [3],
            "stage": ["training"],
            "run": [""],
            "optimizer": ["SGD"],
        }
    )
    digest = {"digest": "st1-1", "rows": 50, "columns": {"example_id": "String"}}
    outputs = {
        "audit_summary": SUMMARY,
        "gate_report": FAILED,
        "checkpoint_manifest": manifest,
        "data_digests": {"training": digest, "queries": digest},
    }
    run(LineageHook(), catalog, outputs, error=RuntimeError())
    (record,) = recorded
    assert record.training_data.digest == "st1-1"
    assert [one.id for one in record.checkpoints] == ["a"]
    assert record.findings == ("fail: 0.3 is too much.",)
    assert "hunter2" not in str(record.to_json())


@pytest.fixture
def inputs(catalog, tmp_path):
    """An audit's inputs in the catalog: a checkpoint, a task and parameters."""
    file = tmp_path / "checkpoints/step_1.pt"
    file.parent.mkdir()
    file.write_bytes(b"weights")
    catalog["checkpoints"] = CheckpointsDataset(str(file.parent))
    task = {"class": "sourcetrace.tasks.digits.DigitsTask"}
    catalog["params:task"] = MemoryDataset(task)
    catalog["parameters"] = MemoryDataset({"task": task})
    catalog["audit_summary"] = MemoryDataset(SUMMARY)
    row = {"checkpoint_id": "step_1", "file": "step_1.pt", "step": 1, "stage": "training"}
    digest = hashlib.sha256(b"weights").hexdigest()
    one = {"digest": "st1-1", "table": "t", "rows": 50, "columns": {"example_id": "String"}}
    return {
        "checkpoint_manifest": pl.DataFrame(
            [{**row, "sha256": digest, "run": "", "optimizer": "SGD"}]
        ),
        "data_digests": {"training": one, "queries": one},
        "query_signals": 0,
        "curvature": 0,
        "attribution_scores": 0,
        "audit_summary": SUMMARY,
        "gate_report": PASSED,
    }


def test_an_audit_knows_its_key_as_it_can_be_computed_beforehand(catalog, recorded, inputs):
    run(LineageHook(), catalog, inputs)
    (record,) = recorded
    key = AuditKey.of(
        catalog.load("parameters"),
        data=inputs["data_digests"],
        checkpoints=catalog["checkpoints"].load().digests(),
        code=MadeOf.code_of("sourcetrace.tasks.digits.DigitsTask"),
    )
    assert record.key == asdict(key)


def test_a_file_that_came_after_the_audit_began_is_not_in_its_key(catalog, recorded, inputs):
    run(LineageHook(), catalog, inputs)
    catalog["checkpoints"].load().files()[0].with_name("step_2.pt").write_bytes(b"later")
    run(LineageHook(), catalog, inputs)
    before, after = (record.key for record in recorded)
    assert after == before
    assert _checkpoints_part(catalog) != before["checkpoints"]


def _checkpoints_part(catalog):
    files = catalog["checkpoints"].load().digests()
    task = {"task": {"class": "a.B"}}
    return AuditKey.of(task, data={}, checkpoints=files, code="").checkpoints


def test_what_is_edited_while_the_audit_runs_is_not_in_its_key(catalog, recorded, inputs, tmp_path):
    baseline = tmp_path / "approved.json"
    baseline.write_text('{"metrics": {"harmful_share": 0.2}}')
    parameters = {**catalog.load("parameters"), "gate": {"baseline": str(baseline)}}
    catalog["parameters"] = MemoryDataset(parameters)
    before = AuditKey.limits_of(parameters)
    hook, made = LineageHook(), pipeline(*inputs)
    hook.before_pipeline_run(pipeline=made, catalog=catalog)
    hook.after_node_run(outputs=inputs)
    baseline.write_text('{"metrics": {"harmful_share": 0.1}}')
    list(hook.after_pipeline_run())
    (record,) = recorded
    assert record.key["limits"] == before != AuditKey.limits_of(parameters)


def test_judging_again_knows_the_limits_alone_and_a_resumed_audit_nothing(
    catalog, recorded, inputs
):
    run(LineageHook(), catalog, {"gate_report": PASSED})
    run(LineageHook(), catalog, {name: inputs[name] for name in inputs if name != "query_signals"})
    judged, resumed = recorded
    assert set(judged.key) == {"limits"}
    assert resumed.key is None


def test_a_verification_goes_on_with_the_version_of_the_last_audit(catalog, recorded):
    version = RegisteredModelParameters(name="churn", version="4")
    append_row(catalog["audit_log"].path, audit_record(model=version), None)
    catalog["audit_summary"] = MemoryDataset(SUMMARY)
    run(LineageHook(), catalog, {"verification_summary": verification(digest="1").summary})
    (record,) = recorded
    assert record.model == version
    assert record.trust_status == "Verified"


def test_a_record_survives_its_file():
    record = audit_record(
        findings=("fail: x",), model=RegisteredModelParameters(name="churn", alias="next")
    )
    assert AuditRecord.from_json(record.to_json()) == record
    with pytest.raises(ValueError, match="colour"):
        AuditRecord.from_json({**record.to_json(), "colour": 1})


@pytest.mark.parametrize("requested", ["auto", "cpu"])
def test_the_device_is_the_one_that_was_used_and_none_without_torch(monkeypatch, requested):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert _used_device(requested) == "cpu"
    monkeypatch.delitem(sys.modules, "torch")
    assert _used_device(requested) is None

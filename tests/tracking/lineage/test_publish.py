"""An audit's lineage on an MLflow server: complete, once, and never claiming what is not so."""

import logging
from dataclasses import replace

import pytest
from mlflow.entities import Dataset, DatasetInput, InputTag
from mlflow.exceptions import MlflowException

from sourcetrace.errors import InputError
from sourcetrace.parameters import RegisteredModelParameters
from sourcetrace.tracking.history.audit_log import AuditHistory
from sourcetrace.tracking.lineage import model_version
from sourcetrace.tracking.lineage.model_version import (
    TRAINING_DIGEST,
    AuditedVersion,
)
from sourcetrace.tracking.lineage.publish import CHECKPOINT_DIGEST, append_row
from sourcetrace.tracking.lineage.record import CLOSING, OPENING
from sourcetrace.tracking.lineage.send import Sender
from sourcetrace.tracking.server.waiting_run import FOLDER, WaitingRun
from tests.tracking.records import DIGEST, OTHER, FailingClient, Killed, audit_record

# MLflow's own use of SQLAlchemy.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

CHURN_1 = RegisteredModelParameters(name="churn", version="1")


class Down:
    """A client whose server never answers."""

    def __getattr__(self, name):
        def call(*_, **__):
            raise MlflowException("no answer from http://ada:hunter2@mlflow.example")

        return call


@pytest.fixture
def record(tmp_path):
    """Record an audit beside this test's history and send it, and return the history."""

    def write(client, audit, folder=tmp_path):
        log = folder / "audit_log.jsonl"
        run = WaitingRun.begin(folder / FOLDER)
        run.keep_audit(audit.to_json(), log=log.name)
        try:
            version = AuditedVersion.find(client, audit.model, run_id=audit.run_id)
            append_row(log, audit, version)
            Sender(client).send(run)
        finally:
            # As after a kill, too.
            run.close()
        return log

    return write


def aliases(client, version="1"):
    return client.get_model_version("churn", version).aliases


def counts(client, run_id):
    inputs = client.get_run(run_id).inputs
    experiment = client.get_run(run_id).info.experiment_id
    return (
        len(inputs.dataset_inputs),
        len(inputs.model_inputs),
        len(client.search_logged_models([experiment])),
        [len(client.get_metric_history(run_id, n)) for n in ("audit.suspect_share",)],
    )


def test_a_run_has_its_data_and_checkpoints_as_inputs_and_metrics_against_both(
    client, start_run, record
):
    audit = audit_record(run_id=start_run())
    record(client, audit)
    run = client.get_run(audit.run_id)
    data = {one.dataset.name: one.dataset.digest for one in run.inputs.dataset_inputs}
    assert data == {
        "audited_training_data": DIGEST,
        "audited_queries": audit.query_data.digest,
    }
    models = [client.get_logged_model(one.model_id) for one in run.inputs.model_inputs]
    assert {one.tags[CHECKPOINT_DIGEST] for one in models} == {
        one.sha256 for one in audit.checkpoints
    }
    # Nobody knows what trained them; the audit did not.
    assert {one.source_run_id for one in models} <= {None, ""}
    last = next(one for one in models if one.params["step"] == "20")
    assert {(m.key, m.dataset_digest) for m in last.metrics} >= {("audit.suspect_share", DIGEST)}
    assert run.data.metrics["audit.suspect_share"] == pytest.approx(0.08)
    assert "training examples" in run.data.tags["mlflow.note.content"]
    record(client, replace(audit, status="fail", at="2026-03-02T12:00:00+00:00"))
    run = client.get_run(audit.run_id)
    assert run.data.tags["audit.status"] == "fail"
    assert "### Audit: fail" in run.data.tags["mlflow.note.content"]
    client.set_tag(audit.run_id, "mlflow.note.content", "Mine.")
    record(client, audit)
    assert client.get_run(audit.run_id).data.tags["mlflow.note.content"] == "Mine."


def test_the_same_audit_again_adds_nothing_but_a_row_of_history(
    client, start_run, register, record
):
    register(start_run(), description="Trained by hand.")
    first = audit_record(run_id=start_run(), model=CHURN_1)
    log = record(client, first)
    before, card = counts(client, first.run_id), client.get_model_version("churn", "1").description
    later = replace(first, at="2026-03-02T12:00:00+00:00")
    record(client, later)
    assert counts(client, first.run_id) == before == (2, 2, 2, [1])
    again = client.get_model_version("churn", "1").description
    lines = zip(card.split("\n"), again.split("\n"), strict=True)
    (changed,) = [a for a, b in lines if a != b]
    assert changed.startswith("Audited 2026-03-01")
    assert len(AuditHistory(log).read()) == 2
    other_run = replace(first, run_id=start_run())
    record(client, other_run)
    assert counts(client, other_run.run_id)[:3] == (2, 2, 2)


def test_a_point_that_the_run_has_already_is_not_logged_twice(client, start_run, record):
    run_id = start_run()
    client.log_metric(run_id, "audit.suspect_share", 0.08, timestamp=5, step=0)
    record(client, audit_record(run_id=run_id))
    assert len(client.get_metric_history(run_id, "audit.suspect_share")) == 1


def test_a_version_is_tagged_and_gets_its_card_beside_a_persons_text(
    client, start_run, register, record
):
    register(start_run(), description="Ask Ada before use.")
    audit = audit_record(run_id=start_run(), model=CHURN_1)
    record(client, audit)
    version = client.get_model_version("churn", "1")
    assert version.tags == {
        "audit.status": "pass",
        "audit.run_id": audit.run_id,
        "audit.trust": "Verified: retrained.",
        "audit.suspect_fraction": "0.0800",
        "audit.report_sha256": "a" * 64,
        "audit.at": audit.at,
        "audit.key": f"0.1.0/{'d' * 16}/{'c' * 16}/{'b' * 16}/{'a' * 16}",
        "lineage.data_matches": "unknown",
    }
    assert version.description.startswith("Ask Ada before use.\n\n" + OPENING)
    assert version.description.endswith(CLOSING)
    assert version.aliases == ["audited"]
    assert client.get_run(audit.run_id).data.tags["audit.model_version"] == "churn version 1"


@pytest.mark.parametrize("status", ["warn", "fail", "inconclusive", "unjudged", "error"])
def test_only_a_pass_has_the_alias_and_a_later_audit_takes_it_away(
    client, start_run, register, record, status
):
    register(start_run())
    record(client, audit_record(run_id=start_run(), model=CHURN_1))
    assert aliases(client) == ["audited"]
    record(client, audit_record(run_id=start_run(), model=CHURN_1, status=status))
    assert aliases(client) == []
    assert client.get_model_version("churn", "1").tags["audit.status"] == status


def test_another_versions_alias_stays_where_it_is(client, start_run, register, record):
    register(start_run())
    register(start_run())
    record(client, audit_record(run_id=start_run(), model=CHURN_1))
    second = RegisteredModelParameters(name="churn", version="2")
    record(client, audit_record(run_id=start_run(), model=second, status="fail"))
    assert aliases(client, "1") == ["audited"]


def test_without_a_name_the_version_is_one_that_the_run_registered(client, start_run, register):
    run_id = start_run()
    assert AuditedVersion.find(client, None, run_id=run_id) is None
    register(run_id)
    register(run_id)
    assert AuditedVersion.find(client, None, run_id=run_id).version == "2"
    assert AuditedVersion.find(client, None, run_id="") is None


def test_a_version_that_does_not_exist_is_named(client, start_run, register):
    register(start_run())
    for missing in (
        RegisteredModelParameters(name="churn", version="7"),
        RegisteredModelParameters(name="churn", alias="gone"),
        RegisteredModelParameters(name="chum", version="1"),
    ):
        with pytest.raises(InputError, match=r"tracking\.registered_model: there is no"):
            AuditedVersion.find(client, missing, run_id="")


def log_training_input(client, run_id, digest):
    dataset = Dataset("training", digest, "code", '{"tags": {}}')
    tag = InputTag("mlflow.data.context", "training")
    client.log_inputs(run_id, datasets=[DatasetInput(dataset, tags=[tag])])


@pytest.mark.parametrize("how", ["version tag", "run tag", "run input"])
@pytest.mark.parametrize(
    ("trained", "status", "matches"),
    [(DIGEST, "pass", "true"), (OTHER, "fail", "false"), ("0a1b2c3d", "pass", "unknown")],
)
def test_exchanged_training_data_fails_whatever_the_gate_said(
    client, start_run, register, record, caplog, how, trained, status, matches
):
    training_run = start_run(**({TRAINING_DIGEST: trained} if how == "run tag" else {}))
    register(training_run)
    if how == "version tag":
        client.set_model_version_tag("churn", "1", TRAINING_DIGEST, trained)
    if how == "run input":
        log_training_input(client, training_run, trained)
    audit = audit_record(run_id=start_run(), model=CHURN_1)
    with caplog.at_level(logging.WARNING):
        log = record(client, audit)
    version, run = client.get_model_version("churn", "1"), client.get_run(audit.run_id)
    assert version.tags["audit.status"] == status
    assert version.tags["lineage.data_matches"] == matches
    assert version.aliases == (["audited"] if status == "pass" else [])
    expected = {"true": 1.0, "false": 0.0, "unknown": None}[matches]
    assert run.data.metrics.get("lineage.data_matches") == expected
    assert ("LINEAGE" in caplog.text) == (matches == "false")
    assert ("not the data that this version was trained on" in version.description) == (
        matches == "false"
    )
    assert AuditHistory(log).read()[-1]["status"] == status


def test_an_audit_of_its_own_run_is_not_taken_for_the_training(client, start_run, register, record):
    run_id = start_run()
    register(run_id)
    record(client, audit_record(run_id=run_id))
    record(client, replace(audit_record(run_id=run_id), at="2026-03-03T00:00:00+00:00"))
    assert client.get_model_version("churn", "1").tags["lineage.data_matches"] == "unknown"


def test_who_only_judges_again_replaces_one_part_of_the_key(client, start_run, register, record):
    register(start_run())

    def key(parts):
        record(client, audit_record(run_id=start_run(), model=CHURN_1, key=parts))
        return client.get_model_version("churn", "1").tags["audit.key"]

    assert key({"limits": "e" * 16}) == "none"
    complete = key(audit_record().key)
    assert key({"limits": "e" * 16}) == complete.replace("a" * 16, "e" * 16)
    assert key(None) == "none"
    assert key({"limits": "e" * 16}) == "none"


@pytest.mark.slow
@pytest.mark.parametrize("status", ["pass", "fail"])
def test_a_kill_at_any_write_leaves_no_claim_of_a_pass_and_sending_completes_it(
    client, start_run, register, record, tmp_path, status
):
    log = tmp_path / "audit_log.jsonl"
    register(start_run())
    step = killed = 0
    while killed == step:
        # As an earlier audit left it, which passed.
        for key, value in {"audit.status": "pass", "audit.at": "earlier"}.items():
            client.set_model_version_tag("churn", "1", key, value)
        client.set_registered_model_alias("churn", "audited", "1")
        time = f"2026-04-01T12:00:{step:02d}+00:00"
        audit = audit_record(run_id=start_run(), model=CHURN_1, status=status, at=time)
        try:
            record(FailingClient(client, step, Killed()), audit)
        except Killed:
            killed += 1
            tags = client.get_model_version("churn", "1").tags
            # Untouched; being written; or written but for the alias.
            if tags["audit.status"] == "pass":
                assert tags["audit.at"] == ("earlier" if step == 0 else audit.at)
                assert step == 0 or status == "pass"
            elif tags["audit.status"] != "running":
                assert (tags["audit.status"], tags["audit.at"]) == (status, audit.at)
            if status == "fail" and step > 1:
                assert aliases(client) == []
            assert Sender(client).send_all(tmp_path / FOLDER).runs == 1
        tags = client.get_model_version("churn", "1").tags
        assert (tags["audit.status"], tags["audit.at"]) == (status, audit.at)
        assert aliases(client) == (["audited"] if status == "pass" else [])
        assert counts(client, audit.run_id)[:2] == (2, 2)
        step += 1
    assert killed > 10
    assert AuditHistory(log).verify() == []
    assert len(AuditHistory(log).read()) == step


def test_a_server_that_is_down_loses_nothing(client, start_run, register, record, tmp_path):
    register(start_run(**{TRAINING_DIGEST: OTHER}))
    log = tmp_path / "audit_log.jsonl"
    audit = audit_record(run_id=start_run(), model=CHURN_1)
    append_row(log, audit, None)
    with pytest.raises(MlflowException):
        record(Down(), audit)
    assert [row["status"] for row in AuditHistory(log).read()] == ["pass"]
    assert Sender(client).send_all(tmp_path / FOLDER).runs == 1
    # Only the server knew that the data was exchanged: the history gets the correction.
    assert [row["status"] for row in AuditHistory(log).read()] == ["pass", "fail"]
    assert client.get_model_version("churn", "1").tags["audit.status"] == "fail"
    assert Sender(client).send_all(tmp_path / FOLDER).runs == 0


def test_sending_adds_the_number_that_an_alias_stood_for(client, start_run, register, record):
    register(start_run())
    client.set_registered_model_alias("churn", "next", "1")
    audit = audit_record(
        run_id=start_run(), model=RegisteredModelParameters(name="churn", alias="next")
    )
    log = record(client, audit)
    append_row(log, replace(audit, at="2026-03-02T12:00:00+00:00"), None)
    record(client, replace(audit, at="2026-03-02T12:00:00+00:00"))
    assert [row["model_version"] for row in AuditHistory(log).read()] == ["1", None, "1"]
    assert AuditHistory(log).verify() == []


@pytest.mark.parametrize("has_row", [True, False])
def test_an_audit_that_waited_does_not_overwrite_a_later_one(
    client, start_run, register, record, tmp_path, has_row
):
    register(start_run())
    old = audit_record(run_id=start_run(), model=CHURN_1, status="fail")
    with pytest.raises(MlflowException):
        record(FailingClient(client, 0, MlflowException("down")) if has_row else Down(), old)
    # The history's order counts, whatever the clock says; without a row there is but a clock.
    at = "2020-01-01T00:00:00+00:00" if has_row else "2030-01-01T00:00:00+00:00"
    new = audit_record(run_id=start_run(), model=CHURN_1, at=at)
    log = record(client, new)
    assert Sender(client).send_all(tmp_path / FOLDER).runs == 1
    version = client.get_model_version("churn", "1")
    assert version.tags["audit.at"] == new.at
    assert version.aliases == ["audited"]
    assert counts(client, old.run_id)[:2] == (2, 2)
    assert {row["run_id"] for row in AuditHistory(log).read()} == {old.run_id, new.run_id}


class OvertakenClient(FailingClient):
    """Lets something else happen before the writing call with this number."""

    def __init__(self, client, at, happens):
        super().__init__(client, at, Killed())
        self._happens = happens

    def __getattr__(self, name):
        call = super().__getattr__(name)

        def overtaken(*arguments, **named):
            try:
                return call(*arguments, **named)
            except Killed:
                self._left = 10**6
                self._happens()
                return getattr(self._client, name)(*arguments, **named)

        return overtaken


@pytest.mark.parametrize("statuses", [("pass", "fail"), ("fail", "pass")])
@pytest.mark.parametrize("at", range(0, 20, 3))
def test_two_machines_leave_a_version_with_all_of_one_audit(
    client, start_run, register, record, tmp_path, monkeypatch, statuses, at
):
    monkeypatch.setattr(model_version, "_PAUSE", 0.0)
    register(start_run())
    first, second = (
        audit_record(run_id=start_run(), status=status, model=CHURN_1, report_sha256=status * 16)
        for status in statuses
    )
    overtaken = OvertakenClient(
        client, at, lambda: record(client, second, folder=tmp_path / "elsewhere")
    )
    record(overtaken, first)
    assert overtaken.failed
    found = client.get_model_version("churn", "1")
    last = first if found.tags["audit.run_id"] == first.run_id else second
    assert found.tags["audit.status"] == last.status
    assert found.tags["audit.report_sha256"] == last.report_sha256
    assert found.aliases == (["audited"] if last.status == "pass" else [])
    assert found.description.count(OPENING) == found.description.count(CLOSING) == 1
    assert f"Audit: {last.status}" in found.description
    assert f"runs/{last.run_id}" in found.description
    assert WaitingRun.folders(tmp_path / FOLDER) == []
    # The checkpoints of both are the same.
    assert counts(client, first.run_id)[1:3] == counts(client, second.run_id)[1:3] == (2, 2)


def test_an_audit_that_never_has_a_version_to_itself_waits(
    client, start_run, register, record, tmp_path, monkeypatch
):
    monkeypatch.setattr(model_version, "_PAUSE", 0.0)
    monkeypatch.setattr(AuditedVersion, "_has", lambda *_, **__: False)
    register(start_run())
    audit = audit_record(run_id=start_run(), model=CHURN_1)
    with pytest.raises(InputError, match="keeps writing to churn version 1"):
        record(client, audit)
    (problem,) = Sender(client).send_all(tmp_path / FOLDER).problems
    assert "still waits: Another audit keeps writing" in problem


def test_what_sync_sends_of_a_killed_audit_ends_its_run(
    client, start_run, register, record, tmp_path
):
    register(start_run())
    audit = audit_record(run_id=start_run(), model=CHURN_1)
    with pytest.raises(Killed):
        record(FailingClient(client, 6, Killed()), audit)
    assert client.get_run(audit.run_id).info.status == "RUNNING"
    Sender(client).send_all(tmp_path / FOLDER)
    ended = client.get_run(audit.run_id).info
    assert ended.status == "KILLED"
    assert ended.end_time == 1_772_366_400_000

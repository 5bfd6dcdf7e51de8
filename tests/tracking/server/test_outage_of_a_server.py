"""A run whose server goes away at any moment loses nothing: sending makes it what it would be."""

import json
import logging
import uuid
from contextlib import ExitStack
from pathlib import Path

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from sourcetrace.tracking.lineage.publish import recording
from sourcetrace.tracking.lineage.record import ModelReference
from sourcetrace.tracking.server.connection import CONNECTION
from sourcetrace.tracking.server.journal import FOLDER, RUN_KEY, waiting_runs
from sourcetrace.tracking.server.outage import ServerAway, is_outage
from sourcetrace.tracking.server.pending import read_pending
from sourcetrace.tracking.server.send_pending import send_pending
from sourcetrace.tracking.server.stores import guard_stores
from tests.tracking.door import Door, mlflow_server
from tests.tracking.records import audit_record

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with mlflow_server(tmp_path_factory.mktemp("server")) as port:
        yield port


@pytest.fixture
def door(server, monkeypatch):
    """The way to the server, open; MLflow is told of it and knocks once."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    # MLflow sets them itself; they are put back.
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.setenv(name, "")
    before = mlflow.get_tracking_uri()
    guard_stores()
    CONNECTION.reset()
    door = Door(server)
    mlflow.set_tracking_uri(door.address)
    yield door
    # Runs that a test left are nobody's.
    mlflow.tracking.fluent._active_run_stack.get().clear()
    CONNECTION.reset()
    mlflow.set_tracking_uri(before)
    monkeypatch.setattr(mlflow.tracking.fluent, "_active_experiment_id", None)
    door.close()


class Audit:
    """What a run logs, all of it with fixed times, in a folder and an experiment of its own."""

    def __init__(self, folder, model=None):
        self.name, self.model = f"audit {uuid.uuid4().hex}", model
        self.log, self.pending = (
            folder / self.name / "log.jsonl",
            folder / self.name / "pending.json",
        )
        self.log.parent.mkdir()
        self.files = {"log": self.log, "pending": self.pending}

    @property
    def folder(self):
        return self.log.parent / FOLDER

    def run(self):
        """Do as a session with kedro-mlflow and our hooks does; return the run's id here."""
        CONNECTION.reset()
        mlflow.set_experiment(self.name)
        CONNECTION.begin(self.folder)
        run_id = mlflow.start_run(run_name="audit").info.run_id
        mlflow.set_tags({"kind": "test", "replaced": "early"})
        for node in range(2):
            mlflow.start_run(run_id=run_id, nested=True)
            mlflow.log_params({f"node_{node}.seed": node, "shared": "same"})
            mlflow.log_metric("loss", 0.5 / (1 + node), step=node, timestamp=1000 + node)
            mlflow.log_metric("infinite", float("inf"), step=node, timestamp=2000)
            self._log_page(f"page of node {node}")
        mlflow.set_tag("replaced", "late")
        record = audit_record(run_id=run_id, model=self.model)
        with ExitStack() as until_ended:
            with CONNECTION.only_server():
                until_ended.enter_context(recording(MlflowClient(), record, **self.files))
            while mlflow.active_run():
                mlflow.end_run("FAILED")
        CONNECTION.close()
        return run_id

    def _log_page(self, text):
        page = self.log.parent / "page.html"
        page.write_text(text)
        mlflow.log_artifact(str(page), "audit")
        # A later audit writes over it.
        page.write_text("another audit's")

    def on_server(self):
        """Return all that the server has of it, which must be one run."""
        client = MlflowClient()
        experiment = client.get_experiment_by_name(self.name).experiment_id
        (found,) = client.search_runs([experiment])
        run = client.get_run(found.info.run_id)
        tags = {key: run.data.tags[key] for key in run.data.tags.keys() - _OWN_TAGS}
        page = client.download_artifacts(run.info.run_id, "audit/page.html")
        return {
            "status": run.info.status,
            "name": run.info.run_name,
            "params": run.data.params,
            "tags": tags,
            "metrics": {
                key: sorted(
                    (one.step, one.timestamp, one.value)
                    for one in client.get_metric_history(run.info.run_id, key)
                )
                for key in run.data.metrics
            },
            "files": [one.path for one in client.list_artifacts(run.info.run_id, "audit")],
            "page": Path(page).read_text(),
            "data": sorted(one.dataset.digest for one in run.inputs.dataset_inputs),
            "models": len(run.inputs.model_inputs),
            "logged models": len(client.search_logged_models([experiment])),
        }

    def times(self):
        client = MlflowClient()
        experiment = client.get_experiment_by_name(self.name).experiment_id
        (run,) = client.search_runs([experiment])
        return run.info.start_time, run.info.end_time


_OWN_TAGS = {RUN_KEY, "audit.log_hash"}
"""Other ones for every run."""


def send(audit):
    CONNECTION.reset()
    return send_pending(MlflowClient(), **audit.files)


def tries_to_send(audit):
    """Send, and return whether the server was there to the end."""
    try:
        send(audit)
    except Exception as error:
        if is_outage(error):
            return False
        raise
    return True


@pytest.fixture
def healthy(door, tmp_path):
    """What the server has of an audit that it was there for, and how often it was asked."""
    audit = Audit(tmp_path)
    door.requests.clear()
    audit.run()
    asked = len(door.requests)
    assert not waiting_runs(audit.folder)
    assert not audit.pending.exists()
    return audit.on_server(), asked


def test_a_run_is_whole_whenever_its_server_goes_away(door, tmp_path, healthy, caplog):
    expected, asked = healthy
    assert asked > 30
    for number in range(asked):
        audit = Audit(tmp_path)
        caplog.clear()
        # Half of the time the server has done what it was asked before it went.
        door.shut_at(number, swallow=bool(number % 2))
        with caplog.at_level(logging.WARNING, logger="sourcetrace"):
            audit.run()
        assert caplog.text.count("sourcetrace sync") == 1, number
        # Nobody asked again.
        assert len(door.requests) == number + 1
        assert waiting_runs(audit.folder) or read_pending(audit.pending)
        door.open_up()
        sent = send(audit)
        assert sent.problems == []
        assert audit.on_server() == expected, number
        assert not waiting_runs(audit.folder)
        assert not audit.pending.exists()
        again = send(audit)
        assert (again.runs, again.audits) == (0, 0)


def test_sending_that_breaks_off_anywhere_goes_on_and_doubles_nothing(door, tmp_path, healthy):
    expected, _ = healthy
    number, broke_off = 0, True
    while broke_off:
        audit = Audit(tmp_path)
        door.shut_at(0)
        audit.run()
        door.shut_at(number, swallow=bool(number % 2))
        broke_off = not tries_to_send(audit)
        assert not broke_off or waiting_runs(audit.folder)
        door.open_up()
        send(audit)
        assert audit.on_server() == expected, number
        assert not waiting_runs(audit.folder)
        # An odd step, so that both ways of going away are met.
        number += 3
    assert number > 10


def test_a_run_that_is_sent_later_keeps_its_times(door, tmp_path):
    audit = Audit(tmp_path)
    door.shut_at(0)
    audit.run()
    (folder,) = waiting_runs(audit.folder)
    lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    ends = [line["end_time"] for line in lines if line["kind"] == "status"]
    door.open_up()
    send(audit)
    assert audit.times() == (lines[0]["start_time"], ends[-1])


def test_a_run_that_was_killed_says_so_and_an_unfinished_line_is_dropped(door, tmp_path):
    audit = Audit(tmp_path)
    CONNECTION.reset()
    door.shut_at(0)
    mlflow.set_experiment(audit.name)
    CONNECTION.begin(audit.folder)
    mlflow.start_run()
    mlflow.log_param("kept", 1)
    audit._log_page("page")
    # As after a kill: nobody ends the run, and its lock is gone.
    CONNECTION.close()
    (folder,) = waiting_runs(audit.folder)
    with (folder / "journal.jsonl").open("a") as file:
        file.write('{"kind": "log", "at": 1, "par')
    door.open_up()
    assert send(audit).runs == 1
    found = audit.on_server()
    assert (found["status"], found["params"]) == ("KILLED", {"kept": "1"})


def test_a_run_that_is_being_written_is_left_alone(door, tmp_path):
    audit = Audit(tmp_path)
    door.shut_at(0)
    CONNECTION.reset()
    mlflow.set_experiment(audit.name)
    CONNECTION.begin(audit.folder)
    run_id = mlflow.start_run().info.run_id
    sent = send_pending(MlflowClient(), **audit.files)
    assert (sent.runs, sent.writing) == (0, {run_id})
    assert waiting_runs(audit.folder)


def test_a_version_that_is_not_there_leaves_the_audit_waiting_and_the_rest_is_sent(door, tmp_path):
    name = f"churn {uuid.uuid4().hex}"
    audit = Audit(tmp_path, model=ModelReference(name, version="1"))
    door.shut_at(0)
    audit.run()
    door.open_up()
    sent = send(audit)
    assert (sent.runs, sent.audits) == (1, 0)
    (problem,) = sent.problems
    assert "there is no version 1 of a registered model" in problem
    client = MlflowClient()
    client.create_registered_model(name)
    client.create_model_version(name, "s3://somewhere/model")
    sent = send(audit)
    assert (sent.runs, sent.audits, sent.problems) == (0, 1, [])
    assert client.get_model_version(name, "1").aliases == ["audited"]
    experiment = client.get_experiment_by_name(audit.name)
    (run,) = client.search_runs([experiment.experiment_id])
    assert client.get_model_version(name, "1").tags["audit.run_id"] == run.info.run_id
    assert not waiting_runs(audit.folder)


def test_what_a_server_forbids_is_no_outage_unless_a_run_has_begun(door, tmp_path):
    audit = Audit(tmp_path)
    door.status = 401
    with pytest.raises(MlflowException, match="401") as refused:
        audit.run()
    assert not isinstance(refused.value, ServerAway)
    door.status = None
    CONNECTION.reset()
    mlflow.set_experiment(audit.name)
    CONNECTION.begin(audit.folder)
    mlflow.start_run()
    door.status = 403
    mlflow.log_param("after", "the token expired")
    assert CONNECTION.away
    mlflow.end_run()
    CONNECTION.close()
    door.status = None
    assert send(audit).runs == 1


def test_a_server_of_another_project_is_not_given_a_half_run(door, tmp_path):
    audit = Audit(tmp_path)
    mlflow.set_experiment(audit.name)
    CONNECTION.begin(audit.folder)
    run_id = mlflow.start_run().info.run_id
    door.shut_at(0)
    mlflow.log_param("late", 1)
    mlflow.end_run()
    CONNECTION.close()
    door.open_up()
    CONNECTION.reset()
    MlflowClient().delete_run(run_id)
    sent = send(audit)
    assert sent.runs == 0
    assert "still waits" in sent.problems[0]
    assert waiting_runs(audit.folder)

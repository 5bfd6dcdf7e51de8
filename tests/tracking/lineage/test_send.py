"""A run that waits is sent whole, once, whenever its server goes away meanwhile."""

import shutil
import uuid
from types import SimpleNamespace

import mlflow
import pytest
from mlflow.entities import Dataset, DatasetInput
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from sourcetrace.parameters import RegisteredModelParameters
from sourcetrace.tracking.history.audit_log import AuditHistory
from sourcetrace.tracking.lineage.send import Sender
from sourcetrace.tracking.server.outage import is_outage
from sourcetrace.tracking.server.send_run import RUN_KEY
from sourcetrace.tracking.server.tracked import _Tracked
from sourcetrace.tracking.server.waiting_run import FOLDER, WaitingRun
from tests.tracking.door import Door, free_port, mlflow_server
from tests.tracking.records import audit_record

pytestmark = [
    pytest.mark.slow,
    # MLflow's own use of SQLAlchemy.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

OWN_TAGS = {RUN_KEY, "audit.log_hash", "audit.model_version"}
"""Other ones for every run."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with mlflow_server(tmp_path_factory.mktemp("server")) as port:
        yield port


@pytest.fixture(scope="module")
def door(server):
    """The way to the server; who knocks, knocks once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        # MLflow sets them itself; they are put back.
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID"):
            patch.setenv(name, "")
        before = mlflow.get_tracking_uri()
        door = Door(server)
        yield door
        door.close()
        mlflow.set_tracking_uri(before)
        mlflow.set_registry_uri(None)
        patch.setattr(mlflow.tracking.fluent, "_active_experiment_id", None)


def tracked_at(address, experiment="audits"):
    tracked = _Tracked(address=address, experiment=experiment)
    tracked.connect()
    return tracked


def log_all(tracked, root, *, model=None, end="FAILED"):
    """Log what a run may log, by MLflow's own functions, and keep an audit of it."""
    root.mkdir(exist_ok=True)
    run_id = tracked.begin(root / FOLDER, resumed=None)
    page = root / "page.html"
    with mlflow.start_run(run_id=run_id, run_name="audit"):
        mlflow.set_tags({"kind": "test", "replaced": "early"})
        mlflow.log_params({"seed": 1, "shared": "same"})
        for step in range(2):
            mlflow.log_metric("loss", 0.5 / (1 + step), step=step, timestamp=1000 + step)
            mlflow.log_metric("infinite", float("inf"), step=step, timestamp=2000)
        page.write_text("the run's")
        mlflow.log_artifact(str(page), "audit")
        # A later audit writes over it.
        page.write_text("another audit's")
        mlflow.set_tag("replaced", "late")
        data = Dataset("clicks", "0a1b", "code", "{}")
        store = MlflowClient()
        store.log_inputs(run_id, datasets=[DatasetInput(data, tags=[])])
        logged = store.create_logged_model(
            store.get_run(run_id).info.experiment_id, name="model", source_run_id=run_id
        )
        store.log_model_artifact(logged.model_id, str(page))
        store.finalize_logged_model(logged.model_id, "READY")
        name = f"digits-{uuid.uuid4().hex}"
        store.create_registered_model(name)
        store.create_model_version(name, f"models:/{logged.model_id}", run_id=run_id)
        with mlflow.start_run(nested=True, run_name="inner"):
            mlflow.log_metric("inner", 1.0)
        record = audit_record(run_id=tracked.run_id, model=model)
        tracked.waiting.keep_audit(record.to_json(), log="audit_log.jsonl")
    if end is not None:
        store.set_terminated(run_id, end)
    tracked.end().close()
    return SimpleNamespace(id=run_id, root=root / FOLDER)


@pytest.fixture(scope="module")
def logged(door, tmp_path_factory):
    """A run that never saw its server."""
    away = tracked_at(f"http://127.0.0.1:{free_port()}")
    assert away.away is not None
    return log_all(away, tmp_path_factory.mktemp("logged"))


@pytest.fixture
def waiting(logged, tmp_path):
    """The same run, waiting for an experiment of its own."""

    def again():
        name = uuid.uuid4().hex
        (folder,) = WaitingRun.folders(logged.root)
        copy = tmp_path / name / FOLDER / folder.name
        shutil.copytree(folder, copy)
        address = f"sqlite:///{copy / 'mlflow.db'}"
        store = MlflowClient(address, address)
        store.rename_experiment(store.get_experiment_by_name("audits").experiment_id, name)
        # A version is its model's: each run registers under a name of its own.
        (version,) = store.search_model_versions()
        store.rename_registered_model(version.name, f"digits-{name}")
        return SimpleNamespace(root=copy.parent, experiment=name)

    return again


def on_server(client, experiment):
    """Return all that the server has in an experiment, which must be one run and one within it."""
    experiment_id = client.get_experiment_by_name(experiment).experiment_id
    inner, found = sorted(client.search_runs([experiment_id]), key=lambda one: -one.info.start_time)
    run = client.get_run(found.info.run_id)
    assert inner.data.tags["mlflow.parentRunId"] == run.info.run_id
    (version,) = client.search_model_versions(f"run_id = '{run.info.run_id}'")
    (output,) = run.outputs.model_outputs
    assert version.source == f"models:/{output.model_id}"
    return {
        "status": (run.info.status, inner.info.status),
        "name": (run.info.run_name, inner.info.run_name),
        "times": (run.info.start_time, run.info.end_time, inner.info.end_time),
        "params": run.data.params,
        "tags": {
            key: run.data.tags[key].replace(f"{experiment_id}/runs/{run.info.run_id}", "its own")
            for key in run.data.tags.keys() - OWN_TAGS
        },
        "metrics": {
            key: sorted(
                (one.step, one.timestamp, one.value)
                for one in client.get_metric_history(run.info.run_id, key)
            )
            for key in run.data.metrics
        },
        "files": [one.file_size for one in client.list_artifacts(run.info.run_id, "audit")],
        "data": sorted(one.dataset.digest for one in run.inputs.dataset_inputs),
        "models": len(run.inputs.model_inputs),
        "logged models": len(client.search_logged_models([experiment_id])),
        "version": version.version,
    }


@pytest.fixture(scope="module")
def client(door):
    return MlflowClient(door.address, door.address)


def test_sending_that_breaks_off_anywhere_goes_on_and_doubles_nothing(door, client, waiting):
    door.open_up()
    run = waiting()
    door.requests.clear()
    assert Sender(client).send_all(run.root).runs == 1
    asked = len(door.requests)
    expected = on_server(client, run.experiment)
    assert (expected["status"], expected["files"]) == (("FAILED", "FINISHED"), [9])
    assert len(expected["data"]) == 3
    assert "0a1b" in expected["data"]
    assert asked > 50
    assert WaitingRun.folders(run.root) == []
    # An odd step, so that both ways of going away are met: asked, or answered, no more.
    for number in range(0, asked, 17):
        run = waiting()
        door.shut_at(number, swallow=bool(number % 2))
        with pytest.raises(Exception) as raised:  # noqa: PT011
            Sender(client).send_all(run.root)
        assert is_outage(raised.value), number
        assert len(WaitingRun.folders(run.root)) == 1
        door.open_up()
        assert Sender(client).send_all(run.root).runs == 1
        assert on_server(client, run.experiment) == expected, number
        assert WaitingRun.folders(run.root) == []
        assert Sender(client).send_all(run.root).runs == 0
        assert len(AuditHistory(run.root.with_name("audit_log.jsonl")).read()) == 1


def test_a_run_that_the_server_saw_begin_keeps_its_id_and_a_killed_one_says_so(
    door, client, tmp_path
):
    door.open_up()
    tracked = tracked_at(door.address, uuid.uuid4().hex)
    run = log_all(tracked, tmp_path / "run", end="RUNNING")
    experiment = client.get_experiment_by_name(tracked.experiment)
    (begun,) = client.search_runs([experiment.experiment_id])
    assert begun.info.status == "RUNNING"
    assert begun.info.run_id != run.id
    Sender(client).send_all(run.root)
    sent = client.get_run(begun.info.run_id)
    assert sent.info.status == "KILLED"
    (row,) = AuditHistory(tmp_path / "run/audit_log.jsonl").read()
    assert row["run_id"] == begun.info.run_id
    assert row["hash"] == sent.data.tags["audit.log_hash"]


def test_a_run_that_is_being_written_is_left_alone(door, client, tmp_path):
    door.open_up()
    tracked = tracked_at(door.address)
    tracked.begin(tmp_path / FOLDER, resumed=None)
    sent = Sender(client).send_all(tmp_path / FOLDER)
    assert (sent.runs, sent.writing) == (0, [tracked.waiting.folder.name])
    tracked.end().discard()


def test_what_the_server_lacks_leaves_the_run_waiting_and_the_rest_is_sent(door, client, tmp_path):
    door.open_up()
    name = f"churn {uuid.uuid4().hex}"
    tracked = tracked_at(door.address, uuid.uuid4().hex)
    run = log_all(
        tracked, tmp_path / "run", model=RegisteredModelParameters(name=name, version="1")
    )
    log_all(tracked, tmp_path / "run")
    sent = Sender(client).send_all(run.root)
    assert sent.runs == 1
    (problem,) = sent.problems
    assert "there is no version 1 of a registered model" in problem
    client.create_registered_model(name)
    client.create_model_version(name, "s3://somewhere/model")
    sent = Sender(client).send_all(run.root)
    assert (sent.runs, sent.problems) == (1, [])
    assert client.get_model_version(name, "1").aliases == ["audited"]


def test_a_run_that_was_deleted_on_the_server_is_not_made_again(door, client, tmp_path):
    door.open_up()
    tracked = tracked_at(door.address, uuid.uuid4().hex)
    run = log_all(tracked, tmp_path / "run")
    (record,) = [one.name for one in WaitingRun.folders(run.root)]
    experiment = client.get_experiment_by_name(tracked.experiment)
    (begun,) = client.search_runs([experiment.experiment_id])
    client.delete_run(begun.info.run_id)
    sent = Sender(client).send_all(run.root)
    assert sent.runs == 0
    assert f"Run {record} still waits" in sent.problems[0]


def test_what_a_server_forbids_is_no_outage(door, tmp_path):
    door.open_up()
    door.status = 401
    with pytest.raises(MlflowException, match="401"):
        tracked_at(door.address)
    door.open_up()
    tracked = tracked_at(door.address)
    door.status = 403
    with pytest.raises(MlflowException, match="403"):
        tracked.begin(tmp_path / FOLDER, resumed=None)
    tracked.end().discard()
    door.open_up()

"""`sourcetrace sync` after audits whose server was away, as an engineer on call meets it."""

import pytest
from mlflow.tracking import MlflowClient

from sourcetrace.tracking.server.send_run import RUN_KEY
from tests.test_commands import sourcetrace as run_sourcetrace
from tests.tracking.door import Door, free_port, mlflow_server

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with mlflow_server(tmp_path_factory.mktemp("server")) as port:
        yield port


@pytest.fixture
def door(server):
    door = Door(server)
    yield door
    door.close()


@pytest.fixture(scope="module")
def project(short_demo, tmp_path_factory):
    """A project with the demo's checkpoints, made without a server."""
    return short_demo(tmp_path_factory.mktemp("sync") / "a project")


def sourcetrace(project, *arguments):
    return run_sourcetrace(project, *arguments, PYTHONPATH=str(project / "src"))


def name_server(project, address, experiment):
    """Configure the environment `remote`, with an experiment of the test's own."""
    folder = project / "conf/remote"
    folder.mkdir(exist_ok=True)
    (folder / "mlflow.yml").write_text(
        f"server: {{mlflow_tracking_uri: '{address}'}}\n"
        f"tracking: {{experiment: {{name: '{experiment}'}}}}\n"
    )


def on_server(door, experiment):
    """Return what the server has of the one run in an experiment, without what takes time."""
    client = MlflowClient(door.address)
    found = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    (run,) = [client.get_run(one.info.run_id) for one in found]
    timed = ("system/audit.work.", "system/audit.cost.")
    return {
        "status": run.info.status,
        "params": run.data.params,
        "tags": run.data.tags.keys() | {RUN_KEY},
        "verdict": run.data.tags["audit.status"],
        "metrics": {
            key: sorted(
                (one.step, one.value)
                for one in client.get_metric_history(found[0].info.run_id, key)
            )
            for key in run.data.metrics
            if not key.startswith(timed)
        },
        "timed": {key for key in run.data.metrics if key.startswith(timed)},
        # The page says how many seconds its audit took.
        "files": {
            (one.path, one.path.endswith(".html") or one.file_size)
            for one in client.list_artifacts(run.info.run_id, "audit")
        },
        "data": {one.dataset.digest for one in run.inputs.dataset_inputs},
        "models": len(run.inputs.model_inputs),
    }


def test_an_audit_whose_server_dies_is_sent_as_if_it_had_been_there(project, door):
    name_server(project, door.address, "healthy")
    healthy = sourcetrace(project, "audit", "--env", "remote")
    assert healthy.returncode == 0, healthy.stderr[-3000:]
    expected = on_server(door, "healthy")
    assert len(expected["files"]) > 4

    moments = {
        "in an upload": lambda method, path: method == "PUT" and path.endswith("review_list.csv"),
        "in what it logged": lambda _, path: path.endswith("/runs/log-batch"),
    }
    for name, moment in moments.items():
        name_server(project, door.address, name)
        door.open_up()
        door.requests.clear()
        door.shuts = moment
        audit = sourcetrace(project, "audit", "--env", "remote")
        assert audit.returncode == 0, audit.stderr[-3000:]
        said = " ".join((audit.stdout + audit.stderr).split())
        assert said.count("MLflow was not told all of the run") == 1
        assert "sourcetrace sync --env remote" in said
        assert "Traceback" not in said
        assert door.shut
        away = sourcetrace(project, "sync", "--env", "remote")
        assert away.returncode == 2
        assert "does not answer" in away.stderr
        door.open_up()
        sent = sourcetrace(project, "sync", "--env", "remote")
        assert sent.returncode == 0, sent.stderr[-3000:]
        assert "Sent 1 run." in sent.stdout
        assert on_server(door, name) == expected
        assert "Nothing waits." in sourcetrace(project, "sync", "--env", "remote").stdout


def test_an_audit_that_begins_without_its_server_ends_with_its_verdict(project, door):
    name_server(project, f"http://ada:hunter2@127.0.0.1:{free_port()}", "absent")
    strict = project / "conf/remote/parameters_gate.yml"
    strict.write_text("gate: {checks: [{metric: harmful_share, at_most: 0.0}]}\n")
    audit = sourcetrace(project, "audit", "--env", "remote", "--pipelines", "gate")
    strict.unlink()
    assert audit.returncode == 1, audit.stderr[-3000:]
    assert "MLflow's server is away" in audit.stdout + audit.stderr
    # Said once at the start of the next run, too.
    again = sourcetrace(project, "audit", "--env", "remote", "--pipelines", "gate")
    assert again.returncode == 0, again.stderr[-3000:]
    said = " ".join((again.stdout + again.stderr).split())
    assert "MLflow was not told all of 1 earlier run;" in said
    kept = (project / "data/08_reporting").rglob("*")
    everything = b"".join(file.read_bytes() for file in kept if file.is_file())
    assert b"hunter2" not in everything
    assert "hunter2" not in audit.stdout + audit.stderr + said
    name_server(project, door.address, "absent")
    sent = sourcetrace(project, "sync", "--env", "remote")
    assert sent.returncode == 0, sent.stderr[-3000:]
    assert "Sent 2 runs." in sent.stdout
    client = MlflowClient(door.address)
    found = client.search_runs([client.get_experiment_by_name("absent").experiment_id])
    assert [run.info.status for run in found] == ["FINISHED", "FAILED"]
    assert [run.data.tags["audit.status"] for run in found] == ["warn", "fail"]


def test_a_server_that_refuses_ends_the_run_at_its_start(project, door):
    door.status = 401
    name_server(project, door.address, "refused")
    before = {file: file.stat().st_mtime_ns for file in (project / "data").rglob("*.*")}
    audit = sourcetrace(project, "audit", "--env", "remote")
    assert audit.returncode == 2
    assert "MLFLOW_TRACKING_TOKEN" in " ".join(audit.stderr.split())
    assert "Traceback" not in audit.stderr
    assert {file: file.stat().st_mtime_ns for file in (project / "data").rglob("*.*")} == before

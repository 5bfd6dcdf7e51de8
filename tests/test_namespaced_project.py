"""The example project in examples/, set up and run as its README says."""

import json
import shutil

import polars as pl
import pytest

from tests.test_commands import REPOSITORY, kedro
from tests.test_commands import sourcetrace as run_sourcetrace
from tests.tracking.door import free_port

pytestmark = pytest.mark.slow

STRICT = """
churn_audit:
  gate:
    checks: [{metric: harmful_share, at_most: 0.0}]
  task:
    arguments: {table: data/03_primary/customers.parquet}
  tracking:
    openlineage: {path: events.jsonl, namespace: churn}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("host") / "their project"
    shutil.copytree(
        REPOSITORY / "examples/namespaced_project",
        folder,
        ignore=shutil.ignore_patterns("__pycache__", "data", "*_churn_audit.yml", "mlflow.db"),
    )
    adopted = sourcetrace(folder, "adopt", "churn_audit", "--task", "churn.task.ChurnTask")
    assert adopted.returncode == 0, adopted.stderr
    return folder


def run(project, *arguments):
    return kedro(project, "run", *arguments, PYTHONPATH=str(REPOSITORY / "src"))


def sourcetrace(project, *arguments):
    return run_sourcetrace(project, *arguments, PYTHONPATH=str(REPOSITORY / "src"))


def name_server(project, address):
    (project / "conf/strict/mlflow.yml").write_text(
        f"server: {{mlflow_tracking_uri: '{address}'}}\n"
        "tracking: {experiment: {name: sent later}}\n"
    )


def rows_of(project):
    log = project / "data/08_reporting/churn_audit/audit_log.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()]


# MLflow's own use of SQLAlchemy.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_training_and_audit_run_together_and_what_a_server_missed_is_sent(project):
    from mlflow.tracking import MlflowClient

    both = run(project)
    assert both.returncode == 0, both.stderr[-3000:]
    reports = project / "data/08_reporting/churn_audit"
    assert "data/08_reporting/churn_audit/cleaning_report.html" in both.stdout
    assert json.loads((reports / "gate.json").read_text())["outcome"] == "pass"
    customers = pl.read_parquet(project / "data/03_primary/customers.parquet")
    review = pl.read_parquet(reports / "review_list.parquet")
    assert set(review["example_id"]) == set(customers.filter(split="train")["customer"])
    assert rows_of(project)[-1]["status"] == "pass"

    # Other limits, hidden arguments, OpenLineage's events, and a server that is away.
    (project / "conf/strict").mkdir()
    (project / "conf/strict/parameters.yml").write_text(STRICT)
    name_server(project, f"http://127.0.0.1:{free_port()}")
    strict = sourcetrace(project, "audit", "--env", "strict", "--output", "json")
    assert strict.returncode == 1
    assert json.loads(strict.stdout)["outcome"] == "fail"
    said = " ".join((strict.stdout + strict.stderr).split())
    assert "The gate failed: 1 check: 1 failed." in said
    assert "run: sourcetrace sync --env strict" in said
    assert "Traceback" not in said
    assert rows_of(project)[-1]["status"] == "fail"

    first, *_, last = map(json.loads, (project / "events.jsonl").read_text().splitlines())
    assert (first["eventType"], last["eventType"]) == ("START", "FAIL")
    assert "churn_audit.ml_bom" in {one["name"] for one in last["outputs"]}

    away = sourcetrace(project, "sync", "--env", "strict")
    assert away.returncode == 2
    assert "does not answer" in away.stderr

    name_server(project, "sqlite:///mlflow.db")
    sent = sourcetrace(project, "sync", "--env", "strict")
    assert (sent.returncode, sent.stdout.splitlines()[-1]) == (0, "Sent 1 run.")

    client = MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    (passed,) = runs_of(client, "churn")
    (failed,) = runs_of(client, "sent later")
    assert (passed.info.status, failed.info.status) == ("FINISHED", "FAILED")
    assert failed.data.tags["audit.status"] == "fail"
    assert failed.data.params["churn_audit.task.arguments.table"] == "***"
    assert failed.data.tags["audit.trust"].startswith("Not verified")
    inputs = client.get_run(failed.info.run_id).inputs
    assert len(inputs.dataset_inputs) == 2
    assert len(inputs.model_inputs) == 4


def runs_of(client, experiment):
    return client.search_runs([client.get_experiment_by_name(experiment).experiment_id])


def test_pending_versions_are_refused(project):
    pending = sourcetrace(project, "audit", "--pending")
    assert pending.returncode == 2
    assert "churn_audit.tracking.registered_model.name" in pending.stderr

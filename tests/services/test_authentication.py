"""A server that asks for a name and a password, which only the environment knows."""

import pytest
import requests

from tests.services.churn import churn_project
from tests.services.tracking_server import TrackingServer

pytestmark = [pytest.mark.service, pytest.mark.slow]


@pytest.fixture(scope="module")
def guarded(postgres, tmp_path_factory):
    database = postgres.create_database("guarded")
    folder = tmp_path_factory.mktemp("guarded")
    with TrackingServer(folder, database=database, authenticated=True) as server:
        yield server


def test_an_audit_logs_in_by_mlflows_variables_and_leaves_the_password_nowhere(guarded, tmp_path):
    address = f"{guarded.url}/api/2.0/mlflow/experiments/get?experiment_id=0"
    assert requests.get(address, timeout=60).status_code == 401
    project = churn_project(tmp_path / "project", guarded, model="churn")

    run = project.sourcetrace("audit", "--verbose")

    assert run.returncode == 0, run.stderr[-3000:]
    version = guarded.get("model-versions/get", name="churn", version="1")["model_version"]
    tags = {one["key"]: one["value"] for one in version["tags"]}
    assert (tags["audit.status"], tags["lineage.data_matches"]) == ("pass", "true")
    assert guarded.password not in run.stdout + run.stderr
    assert guarded.password not in str(guarded.get("runs/get", run_id=tags["audit.run_id"]))
    written = [one.read_bytes() for one in project.path.rglob("*") if one.is_file()]
    assert not any(guarded.password.encode() in one for one in written)


def test_without_the_password_there_is_no_verdict_and_one_message(guarded, tmp_path):
    project = churn_project(tmp_path / "project", guarded, model="left")
    guarded.password, password = "wrong", guarded.password
    run = project.sourcetrace("audit")
    guarded.password = password
    assert run.returncode == 2
    assert "Traceback" not in run.stderr
    assert "MLFLOW_TRACKING_PASSWORD" in run.stderr
    assert not project.reporting.exists()

"""MLflow on SQLite: the tables are made once, and every test gets a copy of the file."""

import shutil

import mlflow
import pytest
from mlflow.tracking import MlflowClient


@pytest.fixture(scope="session")
def empty_server(tmp_path_factory):
    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def client(empty_server, tmp_path):
    """A client of an empty server with an experiment."""
    shutil.copy(empty_server, tmp_path / "mlflow.db")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    client = MlflowClient()
    client.create_experiment("audits", artifact_location=str(tmp_path / "artifacts"))
    yield client
    mlflow.set_tracking_uri(before)


@pytest.fixture
def start_run(client):
    def start(**tags):
        experiment = client.get_experiment_by_name("audits").experiment_id
        return client.create_run(experiment, tags=tags).info.run_id

    return start


@pytest.fixture
def register(client):
    """Register a version of model `churn` that a run trained."""

    def version(run_id, description=None):
        if not client.search_registered_models("name = 'churn'"):
            client.create_registered_model("churn")
        made = client.create_model_version(
            "churn", "s3://somewhere/model", run_id=run_id, description=description
        )
        return made.version

    return version

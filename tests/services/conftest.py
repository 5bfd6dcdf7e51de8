"""The servers, started once for all tests of a worker."""

import pytest

from tests.services.postgres import Postgres, find_postgres
from tests.services.tracking_server import TrackingServer


def pytest_collection_modifyitems(items):
    """Skip what needs PostgreSQL where there is none."""
    if find_postgres() is not None:
        return
    skip = pytest.mark.skip(reason="PostgreSQL is not installed (Debian: postgresql)")
    for item in items:
        if item.get_closest_marker("service"):
            item.add_marker(skip)


@pytest.fixture(scope="session")
def postgres():
    with Postgres() as server:
        yield server


@pytest.fixture(scope="session")
def server(postgres, tmp_path_factory):
    """An MLflow server before PostgreSQL."""
    folder = tmp_path_factory.mktemp("mlflow")
    with TrackingServer(folder, database=postgres.create_database("mlflow")) as running:
        yield running

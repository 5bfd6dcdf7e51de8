"""How MLflow's run ends where its process is ended."""

import signal
import sqlite3
import subprocess
import sys
from functools import partial

import pytest
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import OperationalError

from sourcetrace.errors import InputError
from sourcetrace.hooks.tracking_server import TrackingServerHook
from tests.tracking.conftest import client, empty_server  # noqa: F401

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

RUN = """
import os, sys
import mlflow
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from sourcetrace.hooks.tracking_server import TrackingServerHook

mlflow.set_tracking_uri(sys.argv[1])
begun = TrackingServerHook().before_pipeline_run(
    run_params={}, pipeline=Pipeline([]), catalog=DataCatalog({})
)
next(begun)
# As kedro-mlflow does, once more for a node.
run = mlflow.start_run(experiment_id="1")
mlflow.start_run(run_id=run.info.run_id, nested=True)
print(run.info.run_id, flush=True)
os.kill(os.getpid(), int(sys.argv[2]))
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_interrupted_ends_as_killed(client, tmp_path, how):  # noqa: F811
    address = f"sqlite:///{tmp_path / 'mlflow.db'}"
    ended = subprocess.run(
        [sys.executable, "-c", RUN, address, str(int(how))],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 128 + how
    assert "Traceback" not in ended.stderr
    assert "run the same command again" in ended.stderr
    (run,) = client.search_runs(["1"])
    assert ended.stdout.endswith(f"{run.info.run_id}\n")
    assert run.info.status == "KILLED"
    assert run.info.end_time


@pytest.mark.parametrize("where", ["in a node", "at the end of the run"])
def test_a_full_disk_is_said_in_the_systems_words(where):
    full = MlflowException("INSERT INTO runs")
    full.__cause__ = OperationalError("INSERT", {}, sqlite3.OperationalError("disk is full"))
    error = full if where == "in a node" else ValueError("another")
    ending = TrackingServerHook().on_pipeline_error(error=error)
    next(ending)
    go_on = partial(ending.send, None) if error is full else partial(ending.throw, full)
    with pytest.raises(InputError, match="No space left on device"):
        go_on()

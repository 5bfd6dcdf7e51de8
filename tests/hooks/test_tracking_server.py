"""How MLflow's run ends where its process is ended."""

import signal
import subprocess
import sys

import pytest

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
    assert ended.returncode != 0
    assert "KeyboardInterrupt" in ended.stderr
    (run,) = client.search_runs(["1"])
    assert ended.stdout.endswith(f"{run.info.run_id}\n")
    assert run.info.status == "KILLED"
    assert run.info.end_time

"""A project whose runs go to an MLflow server, and its commands, run as a user runs them."""

import os
import subprocess
from pathlib import Path

from tests.forked import run_forked
from tests.services.tracking_server import TrackingServer
from tests.test_commands import make_project

PASSES = "gate: {checks: [{metric: harmful_share, at_most: 1.0}]}\n"
FAILS = "gate: {checks: [{metric: harmful_share, at_most: -1.0}]}\n"


class ServedProject:
    """A project in a folder of its own; its own parameters are in `conf/local`.

    Args:
        folder: Does not exist yet.
        server: Where its runs go.
        experiment: And into which experiment.
    """

    def __init__(
        self, folder: Path, server: TrackingServer, *, experiment: str = "sourcetrace"
    ) -> None:
        self.path, self._server, self.experiment = make_project(folder), server, experiment
        (self.path / "conf/local/mlflow.yml").write_text(
            f"server: {{mlflow_tracking_uri: {server.url}}}\n"
            f"tracking: {{experiment: {{name: {experiment}}}}}\n"
        )

    @property
    def reporting(self) -> Path:
        """Return the folder of the page and the history."""
        return self.path / "data/08_reporting"

    def set_parameters(self, text: str) -> None:
        """Let YAML text be this project's own parameters."""
        (self.path / "conf/local/parameters.yml").write_text(text)

    def kedro(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run `kedro …`."""
        return run_forked("kedro", arguments, cwd=self.path, environment=self.environment())

    def sourcetrace(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run `python -m sourcetrace …`."""
        return run_forked("sourcetrace", arguments, cwd=self.path, environment=self.environment())

    def environment(self) -> dict[str, str]:
        """Return the environment of its commands: requests that fail are given up in seconds."""
        return {
            **os.environ,
            "COLUMNS": "120",
            "DO_NOT_TRACK": "true",
            # Tiny networks, as in conftest.py.
            "OMP_NUM_THREADS": "1",
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
            "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
            **self._server.credentials,
        }

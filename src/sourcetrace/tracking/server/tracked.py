"""The run of this process, and the server that is told of it.

While a run goes on, MLflow's functions write to the run's own store (`waiting_run`), which is never
away; before and after it they ask the server. A local SQLite file needs no store beside it.
"""

import hashlib
import logging
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy import NullPool, create_engine

from sourcetrace.tracking.server.outage import is_outage, reason_of
from sourcetrace.tracking.server.send_run import SERVER_ID, TrackingServer
from sourcetrace.tracking.server.waiting_run import WaitingRun

logger = logging.getLogger(__name__)

_SERVERS, _DATABASES = ("http", "https"), ("postgresql", "mysql", "mssql")

_PATIENCE = 10
"""Seconds that a database may take to open."""

_PROJECT = "sourcetrace.project"
"""Tag of the runs of one project on one machine, which follow each other."""


@dataclass
class _Tracked:
    """What is known of the server and of the run.

    Attributes:
        address: Of the server; empty where MLflow writes to a local file.
        registry: Of the registry, where it is another.
        experiment: Name of the experiment.
        made_with: How it is made where it is not there.
        away: Why the server did not answer; None where it did.
        waiting: The run's folder, while it goes on.
    """

    address: str = ""
    registry: str | None = None
    experiment: str = ""
    made_with: Mapping[str, Any] = field(default_factory=dict)
    away: str | None = None
    waiting: WaitingRun | None = None
    _experiment_id: str | None = None
    _server_id: str | None = None
    _local_id: str = ""

    def reset(self) -> None:
        """Forget the server and the run: another configuration is read."""
        vars(self).update(vars(_Tracked()))

    @staticmethod
    def may_be_away(address: str) -> bool:
        """Return whether an address is that of a server or of a remote database."""
        return _scheme(address) in (*_SERVERS, *_DATABASES)

    def client(self) -> MlflowClient:
        """Return a client of the server, or of the local file.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: If it is a database that cannot be opened.
        """
        if not self.address:
            return MlflowClient()
        _try_database(self.address)
        return MlflowClient(self.address, self.registry or self.address)

    @property
    def run_id(self) -> str:
        """Id of the run as the server has it; that of this machine where it has none yet."""
        active = mlflow.active_run()
        return self._server_id or self._local_id or (active.info.run_id if active else "")

    @property
    def run_url(self) -> str | None:
        """Address of the run's page, without a user or password; None where there is no page."""
        address, active = self.address or mlflow.get_tracking_uri(), mlflow.active_run()
        unknown = self.address and self._server_id is None
        if _scheme(address) not in _SERVERS or active is None or unknown:
            return None
        experiment = self._experiment_id or active.info.experiment_id
        parts = urlsplit(address)
        server = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"
        return f"{server}/#/experiments/{experiment}/runs/{self.run_id}"

    def connect(self) -> None:
        """Let MLflow's functions ask the server, and find the experiment there.

        A server that is away is noted in `away`.

        Raises:
            MlflowException: If the server refuses.
        """
        mlflow.set_tracking_uri(self.address)
        mlflow.set_registry_uri(self.registry or self.address)
        self.away = None
        try:
            server = TrackingServer(self.client())
            self._experiment_id = server.find_experiment(self.experiment, **self.made_with)
            mlflow.set_experiment(experiment_id=self._experiment_id)
        except Exception as error:
            if not is_outage(error):
                raise
            self.away = reason_of(error)

    def begin(self, root: Path, *, resumed: str | None) -> str:
        """Begin a run in a store of its own, have the server know of it, and return its id here.

        Args:
            root: For its folder.
            resumed: Id of a run on the server that it goes on with.

        Raises:
            MlflowException: If the server refuses.
        """
        self.waiting = WaitingRun.begin(root)
        self.waiting.make_store()
        mlflow.set_tracking_uri(self.waiting.store)
        mlflow.set_registry_uri(self.waiting.store)
        store = MlflowClient()
        experiment = store.create_experiment(
            self.experiment, artifact_location=self.waiting.artifacts.as_uri()
        )
        mlflow.set_experiment(experiment_id=experiment)
        # The fluent function names user and source; kedro-mlflow goes on with the run.
        with mlflow.start_run() as run:
            self._local_id = run.info.run_id
        self._server_id = resumed
        if not resumed and self.away is None:
            try:
                server = TrackingServer(self.client())
                self._server_id = server.begin_run(run, experiment=self.experiment)
            except Exception as error:
                if not is_outage(error):
                    raise
                self.away = reason_of(error)
        if self._server_id:
            store.set_tag(self._local_id, SERVER_ID, self._server_id)
        return self._local_id

    def end_killed(self, log: Path) -> None:
        """End as KILLED what a run of this project left running: its process is gone.

        Args:
            log: The project's history; whoever holds the lock beside it runs alone.
        """
        active = mlflow.active_run()
        if active is None or self.away is not None:
            return
        where = self._experiment_id or active.info.experiment_id
        project = hashlib.sha256(f"{socket.gethostname()}\0{log.absolute()}".encode()).hexdigest()
        left = f"attributes.status = 'RUNNING' AND tags.`{_PROJECT}` = '{project}'"
        try:
            client = self.client()
            for found in {run.info.run_id for run in client.search_runs([where], left)}:
                if found != self.run_id:  # it may go on with a run of before
                    client.set_terminated(found, "KILLED")
            client.set_tag(self.run_id, _PROJECT, project)
        except Exception as error:
            logger.warning("Runs that were killed stay as they are: %s", reason_of(error))

    def end(self) -> WaitingRun | None:
        """Let MLflow's functions ask the server again, and return the folder of the run."""
        waiting, self.waiting = self.waiting, None
        if self.address:
            mlflow.set_tracking_uri(self.address)
            mlflow.set_registry_uri(self.registry or self.address)
            if self._experiment_id is not None:
                with suppress(MlflowException):
                    mlflow.set_experiment(experiment_id=self._experiment_id)
        self._local_id, self._server_id = "", None
        return waiting


TRACKED = _Tracked()
"""Of this process: MLflow, too, has one active run a process."""


def _scheme(address: str) -> str:
    return address.split(":", 1)[0].split("+", 1)[0]


def _try_database(address: str) -> None:
    """Raise at once where a database cannot be opened: MLflow would try for minutes."""
    if _scheme(address) not in _DATABASES:
        return
    limit = "timeout" if _scheme(address) == "mssql" else "connect_timeout"
    try:
        engine = create_engine(address, poolclass=NullPool, connect_args={limit: _PATIENCE})
    except ImportError as error:
        raise MlflowException(f"The database's driver is missing: {error}") from error
    engine.connect().close()

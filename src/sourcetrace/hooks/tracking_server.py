"""Lets a run go on where MLflow's server is away, and ends it where the server refuses it."""

import logging
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from sourcetrace.errors import InputError
from sourcetrace.hooks.lineage import audit_log_path
from sourcetrace.hooks.terminal import show_readable_error
from sourcetrace.namespace import AuditCatalog, AuditNames
from sourcetrace.tracking.server.connection import CONNECTION
from sourcetrace.tracking.server.journal import FOLDER, waiting_runs
from sourcetrace.tracking.server.outage import reason_of
from sourcetrace.tracking.server.pending import read_pending
from sourcetrace.tracking.server.send_pending import PENDING
from sourcetrace.tracking.server.stores import guard_stores

logger = logging.getLogger(__name__)

_PATIENCE = {
    # MLflow's own are 8 tries, 120 seconds each: minutes for every call of a server that is away.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
"""How long a server is waited for, unless the environment says so."""


class TrackingServerHook:
    """Stands between kedro-mlflow and its server."""

    def __init__(self) -> None:
        self._begun_before = False

    @hook_impl(wrapper=True, tryfirst=True)
    def after_context_created(self, context: KedroContext) -> Generator[None, Any, Any]:
        """Guard the server before kedro-mlflow asks it for the experiment.

        Raises:
            InputError: If the server refuses.
        """
        for name, value in _PATIENCE.items():
            os.environ.setdefault(name, value)
        # It warns of every try; we say once what it means.
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
        guard_stores()
        CONNECTION.reset(environment=context.env)
        with _readable_refusal():
            return (yield)

    @hook_impl(wrapper=True, tryfirst=True)
    def before_pipeline_run(
        self, pipeline: Pipeline, catalog: DataCatalog
    ) -> Generator[None, Any, Any]:
        """Name the folder for what cannot be sent, and mention what waits already.

        Raises:
            InputError: If the server refuses the run.
        """
        audit = AuditCatalog(catalog, AuditNames.of(pipeline))
        if "audit_log" in audit:
            folder = audit_log_path(audit).parent
            _mention_waiting(folder)
            CONNECTION.begin((folder / FOLDER).absolute())
        self._begun_before = mlflow.active_run() is not None
        with _readable_refusal():
            return (yield)

    @hook_impl(wrapper=True, tryfirst=True)
    def after_pipeline_run(self) -> Generator[None, Any, Any]:
        """Let go of what waits, once kedro-mlflow has ended the run."""
        try:
            return (yield)
        finally:
            self._finish()

    @hook_impl(wrapper=True, tryfirst=True)
    def on_pipeline_error(self) -> Generator[None, Any, Any]:
        """Let go of what waits, once kedro-mlflow has ended the run."""
        try:
            return (yield)
        finally:
            self._finish()

    def _finish(self) -> None:
        if not CONNECTION.away:
            return
        # kedro-mlflow enters the run once more for every node and leaves it once.
        while not self._begun_before and mlflow.active_run() is not None:
            mlflow.end_run()
        CONNECTION.close()


def _mention_waiting(folder: Path) -> None:
    runs = {run.name for run in waiting_runs(folder / FOLDER)}
    count = len(runs | {record.run_id for record in read_pending(folder / PENDING)})
    if count:
        logger.warning(
            "MLflow was not told all of %d earlier run%s; what it is missing waits in %s. When "
            "its server is there, run: %s",
            count,
            "" if count == 1 else "s",
            folder,
            CONNECTION.sync_command,
        )


@contextmanager
def _readable_refusal() -> Iterator[None]:
    """Say what to change where MLflow cannot be used for what a run begins with."""
    try:
        yield
    except (MlflowException, SQLAlchemyError) as error:
        refused = InputError(
            f"MLflow cannot be used: {reason_of(error)}. Check server.mlflow_tracking_uri and "
            "tracking.experiment.name in conf/<environment>/mlflow.yml, and MLFLOW_TRACKING_URI, "
            "MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD or MLFLOW_TRACKING_TOKEN in the "
            "environment."
        )
        show_readable_error(refused)
        raise refused from error

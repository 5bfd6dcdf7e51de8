"""Lets a run log beside its history, and sends it to MLflow's server when it ends.

A server that is away costs no run; one that refuses ends it before any work.
"""

import atexit
import logging
import os
import sys
import threading
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import mlflow
from kedro.config import MissingConfigException
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.framework.project import PACKAGE_NAME
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from kedro_mlflow.config.resolvers import resolve_random_name
from mlflow.exceptions import MlflowException
from omegaconf import OmegaConf
from sqlalchemy.exc import SQLAlchemyError

from sourcetrace.errors import InputError
from sourcetrace.formats import format_noun
from sourcetrace.hooks.terminal import show_readable_error
from sourcetrace.interruption import ended_in_order
from sourcetrace.locks import PROJECT_LOCK
from sourcetrace.namespace import AuditCatalog, AuditNames
from sourcetrace.tracking.lineage.send import Sender
from sourcetrace.tracking.server.outage import is_full_disk, reason_of
from sourcetrace.tracking.server.tracked import TRACKED
from sourcetrace.tracking.server.waiting_run import FOLDER, WITHOUT_HISTORY, WaitingRun, empty_store

logger = logging.getLogger(__name__)

_DEFAULTS = {
    # MLflow's own are 8 tries, 120 seconds each: minutes for every call of a server that is away.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    # A run is ended when it is sent: its address would stand below the summary.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # One for every file of a checkpoint, beside our own.
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
"""What MLflow is told unless the environment says so: how long to wait for a server."""


class TrackingServerHook:
    """Stands between kedro-mlflow and its server."""

    def __init__(self) -> None:
        self._config: Any = None
        self._command = "sourcetrace sync"
        self._resumed: str | None = None
        self._begun_before = self._runs = False
        self._signals = ExitStack()

    @hook_impl(wrapper=True, tryfirst=True)
    def after_context_created(self, context: KedroContext) -> Generator[None, Any, Any]:
        """Give kedro-mlflow an empty store, and ask the server for the experiment ourselves.

        Raises:
            InputError: If the server refuses.
        """
        for name, value in _DEFAULTS.items():
            os.environ.setdefault(name, value)
        # It warns of every try; we say once what it means.
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
        self._command = "sourcetrace sync" + (f" --env {context.env}" if context.env else "")
        content = _configuration(context)
        server, tracking = content.get("server") or {}, content.get("tracking") or {}
        # Else kedro-mlflow reads the run and begins it again for every node.
        tracking = {**tracking, "run": {**(tracking.get("run") or {}), "nested": False}}
        context.config_loader["mlflow"] = {**content, "tracking": tracking}
        address = server.get("mlflow_tracking_uri") or os.environ.get("MLFLOW_TRACKING_URI", "")
        # Of a run that was interrupted in a process that goes on.
        self._interrupted()
        TRACKED.reset()
        with _readable():
            # A run that somebody began before goes on where it is.
            if not TRACKED.may_be_away(address) or mlflow.active_run() is not None:
                return (yield)
            given = tracking.get("experiment") or {}
            name = given.get("name") or PACKAGE_NAME or "Default"
            own = {"mlflow_tracking_uri": f"sqlite:///{empty_store()}", "mlflow_registry_uri": None}
            context.config_loader["mlflow"] = {
                **content,
                "server": {**server, **own},
                "tracking": {**tracking, "experiment": {**given, "name": "Default"}},
            }
            result = yield
            self._config = context.mlflow  # type: ignore[attr-defined]
            self._config.server.mlflow_tracking_uri = address
            self._config.server.mlflow_registry_uri = server.get("mlflow_registry_uri")
            self._config.tracking.experiment.name = name
            TRACKED.address, TRACKED.registry = address, server.get("mlflow_registry_uri")
            TRACKED.experiment = name
            TRACKED.made_with = given.get("create_experiment_kwargs") or {}
            TRACKED.connect()
            return result

    @hook_impl(wrapper=True, tryfirst=True)
    def before_pipeline_run(
        self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog
    ) -> Generator[None, Any, Any]:
        """Begin the run beside the history, and mention what waits there already.

        Raises:
            InputError: If the server refuses the run.
        """
        audit = AuditCatalog(catalog, AuditNames.of(pipeline))
        root = (audit.log.parent if "audit_log" in audit else WITHOUT_HISTORY) / FOLDER
        if count := len(WaitingRun.folders(root)):
            logger.warning(
                "MLflow was not told all of %s; what it is missing waits in %s. When its server is "
                "there, run: %s",
                format_noun(count, "earlier run"),
                root,
                self._command,
            )
        self._begun_before = mlflow.active_run() is not None
        self._listen()
        with _readable():
            try:
                if TRACKED.address and self._is_tracked(run_params):
                    self._begin(root.absolute())
                result = yield
                if "audit_log" in audit and PROJECT_LOCK.is_held and not self._begun_before:
                    TRACKED.end_killed(audit.log)
                return result
            except BaseException as error:
                self._finish("FAILED" if isinstance(error, Exception) else "KILLED")
                raise

    @hook_impl(wrapper=True, tryfirst=True)
    def after_pipeline_run(self) -> Generator[None, Any, Any]:
        """Send the run, once kedro-mlflow has ended it.

        Raises:
            InputError: If its end has no room on the disk.
        """
        status = "KILLED"
        try:
            with _readable():
                result = yield
            status = "FINISHED"
            return result
        except Exception:
            status = "FAILED"
            raise
        finally:
            self._finish(status)

    @hook_impl(wrapper=True, tryfirst=True)
    def on_pipeline_error(self, error: Exception) -> Generator[None, Any, Any]:
        """Send the run, once kedro-mlflow has ended it.

        Raises:
            InputError: If the error was that the disk is full.
        """
        try:
            with _readable():
                result = yield
            if is_full_disk(error):
                raise _told(error) from error
            return result
        finally:
            self._finish("FAILED")

    def _is_tracked(self, run_params: dict[str, Any]) -> bool:
        names = run_params.get("pipeline_names") or ["__default__"]
        return not set(names) <= set(self._config.tracking.disable_tracking.pipelines)

    def _begin(self, root: Path) -> None:
        run = self._config.tracking.run
        self._resumed = run.id
        run.id = TRACKED.begin(root, resumed=run.id)
        if TRACKED.away is not None:
            logger.warning(
                "MLflow's server is away (%s). The run goes on without it, and is sent when it "
                "ends, or later by: %s",
                TRACKED.away,
                self._command,
            )

    def _listen(self) -> None:
        """Have the run end as KILLED where the process is interrupted or told to end."""
        self._runs = True
        atexit.register(self._interrupted)
        if threading.current_thread() is threading.main_thread():
            self._signals.enter_context(ended_in_order())

    def _interrupted(self) -> None:
        if self._runs:
            ended = " and is KILLED in MLflow" if mlflow.active_run() is not None else ""
            self._finish("KILLED")
            # Not logged: whoever prints a verdict as JSON has standard output for it alone.
            sys.stderr.write(
                f"\nThe run was interrupted{ended}. What its stages had finished is kept, the rest "
                "does not count. To go on, run the same command again.\n"
            )

    def _finish(self, status: str) -> None:
        """End the run where nobody has, and send it."""
        self._runs = False
        try:
            # kedro-mlflow may enter the run once more for every node, and leaves it once.
            while not self._begun_before and mlflow.active_run() is not None:
                mlflow.end_run(status)
        except MlflowException as error:
            logger.warning("MLflow's run could not be ended: %s", reason_of(error))
        if self._config is not None and TRACKED.address:
            self._config.tracking.run.id = self._resumed
        waiting = TRACKED.end()
        try:
            if waiting is not None:
                self._send(waiting)
        finally:
            atexit.unregister(self._interrupted)
            self._signals.close()

    def _send(self, waiting: WaitingRun) -> None:
        try:
            Sender(TRACKED.client()).send(waiting)
        except Exception as error:
            # What is written is written: what MLflow is not told is no failure of the run.
            logger.warning(
                "MLflow was not told all of the run (%s). What it is missing is kept in %s; when "
                "its server is there, run: %s",
                reason_of(error),
                waiting.folder,
                self._command,
            )
        finally:
            waiting.close()


def _configuration(context: KedroContext) -> dict[str, Any]:
    """Return mlflow.yml as kedro-mlflow would read it."""
    loader: Any = context.config_loader
    loader.config_patterns.setdefault("mlflow", ["mlflow*", "mlflow*/**", "**/mlflow*"])
    if not OmegaConf.has_resolver("km.random_name"):
        OmegaConf.register_new_resolver("km.random_name", resolve_random_name, use_cache=True)
    try:
        return dict(loader["mlflow"] or {})
    except MissingConfigException:
        return {}


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except (MlflowException, SQLAlchemyError) as error:
        raise _told(error) from error


def _told(error: Exception) -> InputError:
    """Return what to change where MLflow cannot be used for a run."""
    said = (
        "No space left on device for what the run logs. Make room and run it again."
        if is_full_disk(error)
        else f"MLflow cannot be used: {reason_of(error)}. Check server.mlflow_tracking_uri and "
        "tracking.experiment.name in conf/<environment>/mlflow.yml, and MLFLOW_TRACKING_URI, "
        "MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD or MLFLOW_TRACKING_TOKEN in the "
        "environment."
    )
    show_readable_error(InputError(said))
    return InputError(said)

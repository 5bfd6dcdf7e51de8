"""MLflow's stores, with a journal behind them for when the server is away.

MLflow finds a store by the scheme of the server's address. `guard_stores` puts these between, for
servers and remote databases; a local SQLite file is never away. Everything that logs through MLflow
goes through them: kedro-mlflow, our hooks, and a task's own calls of `mlflow.log_metric`.
"""

import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import mlflow.tracking._model_registry.utils as registry_service
import mlflow.tracking._tracking_service.utils as tracking_service
from mlflow.entities import Experiment, LifecycleStage, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.db.db_types import DATABASE_ENGINES, MSSQL, SQLITE
from sqlalchemy import NullPool, create_engine

from sourcetrace.tracking.server.connection import CONNECTION, Connection
from sourcetrace.tracking.server.journal import RUN_KEY, UNKNOWN_EXPERIMENT
from sourcetrace.tracking.server.outage import ServerAway

_PATIENCE = 10
"""Seconds that a database may take to open."""


class GuardedStore:
    """Asks a store, made when it is first needed, and fails at once while the server is away."""

    def __init__(self, make: Callable[[], Any], connection: Connection) -> None:
        self._make, self._connection = cache(make), connection

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in {"_make", "_connection"}:
            raise AttributeError(name)
        value = self._connection.ask(lambda: getattr(self._make(), name))
        if not callable(value):
            return value
        return lambda *arguments, **named: self._connection.ask(partial(value, *arguments, **named))


class GuardedTrackingStore(GuardedStore):
    """Keeps what a run logs while the server is away in the run's journal."""

    def __init__(self, make: Callable[[], Any], connection: Connection, address: str) -> None:
        super().__init__(make, connection)
        self._address = address

    def get_experiment_by_name(self, experiment_name: str) -> Experiment | None:
        """Return an experiment; while the server is away one that stands for it."""
        try:
            found: Experiment | None = self._connection.ask(
                lambda: self._make().get_experiment_by_name(experiment_name)
            )
        except ServerAway:
            self._connection.experiments[UNKNOWN_EXPERIMENT] = experiment_name
            return _stand_in(UNKNOWN_EXPERIMENT, experiment_name)
        if found is not None:
            self._connection.experiments[found.experiment_id] = experiment_name
        return found

    def get_experiment(self, experiment_id: str) -> Experiment:
        """Return an experiment; while the server is away what is known of it."""
        try:
            found: Experiment = self._connection.ask(
                lambda: self._make().get_experiment(experiment_id)
            )
        except ServerAway:
            name = self._connection.experiments.get(experiment_id)
            if name is None:
                raise
            return _stand_in(experiment_id, name)
        self._connection.experiments[experiment_id] = found.name
        return found

    def restore_experiment(self, experiment_id: str) -> None:
        """Restore an experiment; `sourcetrace sync` does it where the server is away."""
        with suppress(ServerAway):
            self._connection.ask(lambda: self._make().restore_experiment(experiment_id))

    def create_experiment(self, name: str, artifact_location: Any = None, tags: Any = None) -> str:
        """Create an experiment; `sourcetrace sync` does it where the server is away."""
        try:
            made: str = self._connection.ask(
                lambda: self._make().create_experiment(name, artifact_location, tags)
            )
        except ServerAway:
            made = UNKNOWN_EXPERIMENT
        self._connection.experiments[made] = name
        return made

    def create_run(
        self,
        experiment_id: str,
        user_id: str,
        start_time: int,
        tags: Sequence[RunTag],
        run_name: str | None,
    ) -> Run:
        """Create a run, on the server or on this machine."""
        key = next((tag.value for tag in tags if tag.key == RUN_KEY), None)
        if key is None:
            key = uuid.uuid4().hex
            tags = [*tags, RunTag(RUN_KEY, key)]
        try:
            run = self._connection.ask(
                lambda: self._make().create_run(experiment_id, user_id, start_time, tags, run_name)
            )
        except ServerAway:
            known = experiment_id != UNKNOWN_EXPERIMENT
            journal = self._connection.begin_run(
                key,
                experiment=self._connection.experiments.get(experiment_id),
                experiment_id=experiment_id if known else None,
                name=run_name,
                user=user_id,
                start_time=start_time,
            )
            journal.log(tags={tag.key: tag.value for tag in tags})
            run = journal.run.to_run(None)
        return self._known(run)

    def get_run(self, run_id: str) -> Run:
        """Return a run; while the server is away, as it was last and with what waits."""
        try:
            return self._known(self._connection.ask(lambda: self._make().get_run(run_id)))
        except ServerAway:
            return self._connection.known(run_id)

    def update_run_info(
        self, run_id: str, run_status: int, end_time: int | None, run_name: str | None
    ) -> Any:
        """Set how a run stands."""
        self._connection.tell(
            run_id,
            lambda: self._make().update_run_info(run_id, run_status, end_time, run_name),
            lambda journal: journal.set_status(run_status, end_time, run_name),
        )

    def log_batch(
        self,
        run_id: str,
        metrics: Sequence[Metric],
        params: Sequence[Param],
        tags: Sequence[RunTag],
    ) -> None:
        """Log metrics, parameters and tags."""
        self._connection.tell(
            run_id,
            lambda: self._make().log_batch(run_id, metrics, params, tags),
            lambda journal: journal.log(
                params={one.key: one.value for one in params},
                tags={one.key: one.value for one in tags},
                metrics=list(metrics),
            ),
        )

    def log_metric(self, run_id: str, metric: Metric) -> None:
        """Log a metric."""
        self._connection.tell(
            run_id,
            lambda: self._make().log_metric(run_id, metric),
            lambda journal: journal.log(metrics=[metric]),
        )

    def log_param(self, run_id: str, param: Param) -> None:
        """Log a parameter."""
        self._connection.tell(
            run_id,
            lambda: self._make().log_param(run_id, param),
            lambda journal: journal.log(params={param.key: param.value}),
        )

    def set_tag(self, run_id: str, tag: RunTag) -> None:
        """Set a tag."""
        self._connection.tell(
            run_id,
            lambda: self._make().set_tag(run_id, tag),
            lambda journal: journal.log(tags={tag.key: tag.value}),
        )

    def delete_tag(self, run_id: str, key: str) -> None:
        """Take a tag away."""
        self._connection.tell(
            run_id,
            lambda: self._make().delete_tag(run_id, key),
            lambda journal: journal.drop_tag(key),
        )

    def shut_down_async_logging(self) -> None:
        """Do nothing while the server is away: nothing is logged in the background then."""
        if not self._connection.away:
            self._connection.ask(lambda: self._make().shut_down_async_logging())

    def _known(self, run: Run) -> Run:
        """Remember a run, and have its files go through a guard, too."""
        # MLflow's own cache of where a run's files go.
        places = tracking_service._artifact_repos_cache
        if not isinstance(places.get(run.info.run_id), GuardedArtifacts):
            places[run.info.run_id] = GuardedArtifacts(run, self._connection, self._address)
        return self._connection.remember(run)


def _stand_in(experiment_id: str, name: str) -> Experiment:
    return Experiment(experiment_id, name, "", LifecycleStage.ACTIVE)


class GuardedArtifacts:
    """Sends a run's files; while the server or its store is away, they go to the journal."""

    def __init__(self, run: Run, connection: Connection, address: str) -> None:
        self._run_id, self._connection = run.info.run_id, connection

        def remote() -> Any:
            return get_artifact_repository(run.info.artifact_uri, tracking_uri=address)

        self._remote = cache(remote)

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        """Send a file, or keep a copy."""
        self._connection.tell(
            self._run_id,
            lambda: self._remote().log_artifact(local_file, artifact_path),
            lambda journal: journal.keep_file(Path(local_file), artifact_path),
        )

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        """Send the files of a folder, or keep copies."""
        root = Path(local_dir)
        for file in sorted(one for one in root.rglob("*") if one.is_file()):
            place = Path(artifact_path or "") / file.parent.relative_to(root)
            self.log_artifact(str(file), None if place == Path() else place.as_posix())

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_remote":
            raise AttributeError(name)
        return getattr(self._remote(), name)


@cache
def guard_stores() -> None:
    """Put the guards between MLflow and its servers; once a process."""
    tracking: Any = tracking_service._tracking_store_registry
    registry: Any = registry_service._get_store_registry()  # type: ignore[no-untyped-call]
    for scheme in ("http", "https", *(one for one in DATABASE_ENGINES if one != SQLITE)):
        tracking.register(scheme, _tracking_builder(tracking._registry[scheme]))
        registry.register(scheme, _registry_builder(registry._registry[scheme]))
    # Stores that somebody asked for before.
    type(tracking)._get_store_with_resolved_uri.cache_clear()
    type(registry)._get_store_with_resolved_uri.cache_clear()


def _tracking_builder(build: Callable[..., Any]) -> Callable[..., GuardedTrackingStore]:
    def guarded(store_uri: str, artifact_uri: str | None = None) -> GuardedTrackingStore:
        def make() -> Any:
            _try_database(store_uri)
            return build(store_uri=store_uri, artifact_uri=artifact_uri)

        return GuardedTrackingStore(make, CONNECTION, store_uri)

    return guarded


def _registry_builder(build: Callable[..., Any]) -> Callable[..., GuardedStore]:
    def guarded(store_uri: str, tracking_uri: str | None = None) -> GuardedStore:
        def make() -> Any:
            _try_database(store_uri)
            return build(store_uri=store_uri)

        return GuardedStore(make, CONNECTION)

    return guarded


def _try_database(address: str) -> None:
    """Raise at once where a database cannot be opened: MLflow would try for minutes."""
    database = address.split(":", 1)[0].split("+", 1)[0]
    if database in {"http", "https"}:
        return
    limit = "timeout" if database == MSSQL else "connect_timeout"
    try:
        engine = create_engine(address, poolclass=NullPool, connect_args={limit: _PATIENCE})
    except ImportError as error:
        raise MlflowException(f"The database's driver is missing: {error}") from error
    engine.connect().close()

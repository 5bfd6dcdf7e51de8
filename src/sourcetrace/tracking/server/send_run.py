"""Send a run that waits: made where the server does not know it, completed where it does.

All that is sent is what the journal says, with its own times and steps, so that sending it twice
leaves what sending it once does: MLflow keeps one of equal metric points, and files and tags are
written over by themselves.
"""

from mlflow.entities import LifecycleStage, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.tracking import MlflowClient

from sourcetrace.errors import InputError
from sourcetrace.tracking.server.journal import RUN_KEY, Journal, WaitingRun


def send_run(client: MlflowClient, journal: Journal) -> str:
    """Send a run, unless it was sent before, and return its id on the server.

    A run whose process was killed ends as KILLED at the time of its last sign of life.

    Raises:
        InputError: If the server has lost a run that it knew, or its experiment.
    """
    run = journal.run
    if run.run_id is None:
        journal.note_created(_find(client, run) or _create(client, run))
    run_id = run.run_id or ""
    if run.sent:
        return run_id
    _check_known(client, run_id)
    client.log_batch(
        run_id,
        metrics=run.metrics,
        params=[Param(*one) for one in run.params.items()],
        tags=[RunTag(*one) for one in run.tags.items()],
    )
    known_tags = client.get_run(run_id).data.tags if run.dropped_tags else {}
    for key in run.dropped_tags & set(known_tags):
        client.delete_tag(run_id, key)
    if run.artifacts.is_dir():
        client.log_artifacts(run_id, str(run.artifacts))
    killed = run.status == "RUNNING"
    client.set_terminated(run_id, "KILLED" if killed else run.status, run.end_time or run.last)
    journal.note_sent()
    return run_id


def _find(client: MlflowClient, run: WaitingRun) -> str | None:
    """Return the id of a run that was made for this journal before, if it was."""
    experiment = _experiment(client, run)
    found = client.search_runs([experiment], f"tags.`{RUN_KEY}` = '{run.key}'", max_results=1)
    return found[0].info.run_id if found else None


def _create(client: MlflowClient, run: WaitingRun) -> str:
    made = client.create_run(
        _experiment(client, run), start_time=run.start_time, tags=run.tags, run_name=run.name
    )
    run_id: str = made.info.run_id
    return run_id


def _experiment(client: MlflowClient, run: WaitingRun) -> str:
    """Return the id of a run's experiment, made or restored as kedro-mlflow would have."""
    if run.experiment is None:
        return run.experiment_id or "0"
    found = client.get_experiment_by_name(run.experiment)
    if found is None:
        made: str = client.create_experiment(run.experiment)
        return made
    if found.lifecycle_stage == LifecycleStage.DELETED:
        client.restore_experiment(found.experiment_id)
    experiment_id: str = found.experiment_id
    return experiment_id


def _check_known(client: MlflowClient, run_id: str) -> None:
    try:
        client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            raise
        raise InputError(
            f"Run {run_id} was begun on another server than this one, or was deleted there. Name "
            "the environment that it ran in: sourcetrace sync --env …"
        ) from error

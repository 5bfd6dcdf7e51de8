"""Send what a run's own store holds to MLflow's server, by MLflow's public client alone.

A run is found again by its tag `sourcetrace.run_key`, a logged model by the same, a version by its
run and model; MLflow keeps one of equal metric points, and parameters, tags and files are written
over by themselves. So sending twice leaves what sending once does, and sending that broke off goes
on. How a run ended is sent last, by `end_runs`.
"""

from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from mlflow.entities import (
    DatasetInput,
    LifecycleStage,
    LoggedModelOutput,
    Metric,
    Param,
    Run,
    RunTag,
)
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from sourcetrace.errors import InputError

RUN_KEY = "sourcetrace.run_key"
"""Tag with the id that a run, or a logged model, has in its own store."""

SERVER_ID = "sourcetrace.server_run_id"
"""Tag of a run in its own store: its id on the server, which had it begin."""


class TrackingServer:
    """MLflow's server, or the local file that MLflow writes to, as whoever sends runs needs it.

    Args:
        client: Of the server.
    """

    def __init__(self, client: MlflowClient) -> None:
        self._server = client

    def find_experiment(self, name: str, **options: Any) -> str:
        """Return the id of an experiment, made or restored where it is not there.

        Args:
            name: Of the experiment.
            options: How it is made.
        """
        found = self._server.get_experiment_by_name(name)
        if found is None:
            return str(self._server.create_experiment(name, **options))
        if found.lifecycle_stage == LifecycleStage.DELETED:
            self._server.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def begin_run(self, run: Run, *, experiment: str) -> str:
        """Return the id that the server has for a run, which is made there if it is not.

        Args:
            run: As its own store has it.
            experiment: Name of the run's experiment.

        Raises:
            InputError: If the server has lost the run, or is not the one on which it began.
        """
        run_id = run.data.tags.get(SERVER_ID)
        if run_id is not None:
            try:
                return str(self._server.get_run(run_id).info.run_id)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                raise InputError(
                    f"Run {run_id} was begun on another server than this one, or was deleted "
                    "there. Name the environment that it ran in: sourcetrace sync --env …"
                ) from error
        where, key = self.find_experiment(experiment), run.info.run_id
        found = self._server.search_runs([where], f"tags.`{RUN_KEY}` = '{key}'", max_results=1)
        made = (
            found[0]
            if found
            else self._server.create_run(
                where,
                start_time=run.info.start_time,
                tags={**run.data.tags, RUN_KEY: key},
                run_name=run.info.run_name,
            )
        )
        return str(made.info.run_id)

    def send_runs(self, store: MlflowClient) -> list[tuple[Run, str]]:
        """Send every run of a store but its end, and return each with its id on the server.

        The first is the one that began first; runs within it follow.
        """
        experiments = {one.experiment_id: one.name for one in store.search_experiments()}
        runs = store.search_runs(list(experiments), order_by=["attributes.start_time ASC"])
        ids: dict[str, str] = {}
        for run in runs:
            parent = run.data.tags.get(MLFLOW_PARENT_RUN_ID)
            if parent is not None:
                run.data.tags[MLFLOW_PARENT_RUN_ID] = ids.get(parent, parent)
            experiment = experiments[run.info.experiment_id]
            ids[run.info.run_id] = self.begin_run(run, experiment=experiment)
            self._send_content(store, run, ids[run.info.run_id])
        for run in runs:
            self._send_models(store, run, ids[run.info.run_id])
        return [(run, ids[run.info.run_id]) for run in runs]

    def end_runs(self, runs: list[tuple[Run, str]], *, last_sign: int) -> None:
        """Send how runs ended, those within others first; one that was killed ends as KILLED.

        Args:
            runs: As `send_runs` returned them.
            last_sign: Of the life of one that was killed, in milliseconds.
        """
        for run, run_id in reversed(runs):
            status = "KILLED" if run.info.status == "RUNNING" else run.info.status
            self._server.set_terminated(run_id, status, run.info.end_time or last_sign)

    def _send_content(self, store: MlflowClient, run: Run, run_id: str) -> None:
        self._server.log_batch(
            run_id,
            metrics=[
                # Without the model it was of, which has another id there.
                Metric(point.key, point.value, point.timestamp, point.step)
                for name in run.data.metrics
                for point in store.get_metric_history(run.info.run_id, name)
            ],
            params=[Param(*one) for one in run.data.params.items()],
            tags=[RunTag(*one) for one in run.data.tags.items() if one[0] != SERVER_ID],
        )
        files = _path_of(run.info.artifact_uri)
        if files.is_dir():
            self._server.log_artifacts(run_id, str(files))
        inputs = _datasets(store.get_run(run.info.run_id))
        known = _datasets(self._server.get_run(run_id)).keys() if inputs else set()
        if missing := [one for what, one in inputs.items() if what not in known]:
            self._server.log_inputs(run_id, datasets=missing)

    def _send_models(self, store: MlflowClient, run: Run, run_id: str) -> None:
        """Send the models that a run logged, and the versions that were registered of them."""
        models = store.search_logged_models(
            [run.info.experiment_id], filter_string=f"source_run_id = '{run.info.run_id}'"
        )
        if not models:
            return
        there = self._server.get_run(run_id)
        experiment = there.info.experiment_id
        outputs = {one.model_id for one in there.outputs.model_outputs} if there.outputs else set()
        for model in models:
            tag = f"tags.`{RUN_KEY}` = '{model.model_id}'"
            found = self._server.search_logged_models([experiment], filter_string=tag)
            made = (
                found[0]
                if found
                else self._server.create_logged_model(
                    experiment,
                    name=model.name,
                    source_run_id=run_id,
                    tags={**model.tags, RUN_KEY: model.model_id},
                    params=model.params,
                    model_type=model.model_type,
                )
            )
            if str(made.status) != "READY":
                files = _path_of(model.artifact_location)
                if (files / "MLmodel").exists():
                    described = Model.load(str(files))
                    described.run_id, described.model_id = run_id, made.model_id
                    described.save(str(files / "MLmodel"))
                self._server.log_model_artifacts(made.model_id, str(files))
                self._server.finalize_logged_model(made.model_id, "READY")
            if made.model_id not in outputs:
                self._server.log_outputs(run_id, [LoggedModelOutput(made.model_id, step=0)])
            self._send_versions(store, run_id, was=model.model_id, model_id=made.model_id)

    def _send_versions(self, store: MlflowClient, run_id: str, *, was: str, model_id: str) -> None:
        source = f"models:/{model_id}"
        there = self._server.search_model_versions(f"run_id = '{run_id}'")
        if source in {one.source for one in there}:
            return
        for version in store.search_model_versions():
            if version.source != f"models:/{was}":
                continue
            try:
                self._server.create_registered_model(version.name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            made = self._server.create_model_version(
                version.name,
                source,
                run_id=run_id,
                tags=version.tags,
                description=version.description,
                model_id=model_id,
                await_creation_for=0,
            )
            for alias in version.aliases:
                self._server.set_registered_model_alias(version.name, alias, made.version)


def _datasets(run: Run) -> dict[tuple[str, str], DatasetInput]:
    inputs = run.inputs.dataset_inputs if run.inputs else []
    return {(one.dataset.name, one.dataset.digest): one for one in inputs}


def _path_of(address: str) -> Path:
    return Path(url2pathname(urlparse(address).path))

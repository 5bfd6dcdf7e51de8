"""Checkpoints that MLflow has: `runs:/…` and `models:/…` as a folder or file on this machine.

    runs:/<run>/<path>              artifacts of the run; else its logged models of that name
    runs:/<run>                     the run's checkpoints: artifacts, else logged models
    models:/m-<id>                  the logged model
    models:/<name>/<version>        the checkpoints of the run that the version came from, of its
    models:/<name>@<alias>          logged models those up to the version's; else the version's own

What an audit reads is never unpickled: of a model that `mlflow.pytorch.log_model` wrote, the files
beside its pickle count alone.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlflow.entities import FileInfo, LoggedModel, Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.tracking import MlflowClient

from sourcetrace.checkpoints.places.fetched import fetch
from sourcetrace.errors import InputError
from sourcetrace.formats import format_names
from sourcetrace.tracking.places.artifacts import (
    ArtifactSource,
    Part,
    artifacts_below,
    has_weights,
    local_folder,
    parent_of,
)
from sourcetrace.tracking.places.server import asking, repository_of, server_address
from sourcetrace.tracking.server.tracked import TRACKED

logger = logging.getLogger(__name__)

SCHEMES = ("runs", "models")

_LOG_THEM = (
    "Log state dicts as well: mlflow.pytorch.log_state_dict, or mlflow.log_artifact of what "
    "torch.save wrote (model_state_dict, optimizer_state_dict, step)."
)
_ENDED = ("FINISHED", "FAILED", "KILLED")


def mlflow_checkpoints(address: str, cache: str | None) -> Path:
    """Return the folder or file on this machine that has what an address of MLflow's means.

    Artifacts on this machine are read where they are; others, and logged models, are fetched.

    Args:
        address: `runs:/…` or `models:/…`.
        cache: See `sourcetrace.checkpoints.places.addresses.kept_at`.

    Raises:
        InputError: If there are no checkpoints, several folders have some, or MLflow fails.
    """
    with asking(address):
        return _Resolver(address, TRACKED.client(), cache).path()


@dataclass(frozen=True)
class _Resolver:
    """Looks one address up."""

    address: str
    client: MlflowClient
    cache: str | None

    def path(self) -> Path:
        scheme, _, rest = self.address.partition(":")
        first, _, path = rest.strip("/").partition("/")
        if scheme == "runs":
            run = self.client.get_run(first)
            return self._artifacts(run, path) if path else self._of_run(run)
        if first.startswith("m-") and not path:
            return self._lone(self.client.get_logged_model(first))
        return self._of_version(self._version(first, path))

    def _version(self, first: str, number: str) -> ModelVersion:
        if number:
            return self.client.get_model_version(first, number)
        name, at, alias = first.rpartition("@")
        if not at:
            raise InputError(
                f"checkpoints.path: {self.address} names no version. Write "
                "models:/<name>/<version>, models:/<name>@<alias> or models:/m-<id>."
            )
        return self.client.get_model_version_by_alias(name, alias)

    def _of_version(self, version: ModelVersion) -> Path:
        # A server says where a version's model lies: no place but MLflow's own is read on its word.
        source = version.source or ""
        model = (
            self.client.get_logged_model(source.removeprefix("models:/"))
            if source.startswith("models:/m-")
            else None
        )
        run = self.client.get_run(version.run_id) if version.run_id else None
        found = None if run is None else self._of_run_or_none(run, until=model)
        if found is None and model is not None:
            found = self._lone(model)
        if found is None:
            raise self._nothing("no run and no logged model stands behind the version")
        return found

    def _of_run(self, run: Run) -> Path:
        found = self._of_run_or_none(run)
        if found is None:
            raise self._nothing("the run has no artifact and no logged model with weights")
        return found

    def _of_run_or_none(self, run: Run, *, until: LoggedModel | None = None) -> Path | None:
        """Return where the checkpoints of a run are, wherever it logged them.

        Args:
            run: The run.
            until: The logged model that is the last checkpoint; of others, those of its name count.
        """
        every = artifacts_below(self._store(run))
        if weights := [one for one in every if has_weights(one)]:
            base = self._one_place(run, weights)
            inside = [one for one in every if not base or one.path.startswith(f"{base}/")]
            return self._kept(run, base, inside)
        logged = self._logged_by(run)
        last = [one.step for one in logged if until and one.model.model_id == until.model_id]
        if until is not None and last:
            logged = [
                one for one in logged if one.step <= last[-1] and one.model.name == until.name
            ]
        return self._models(logged) if logged else None

    def _one_place(self, run: Run, weights: Sequence[FileInfo]) -> str:
        """Return the one folder of a run that holds its checkpoints, or a folder for each."""
        folders = {parent_of(one.path) for one in weights}
        above = {parent_of(one) for one in folders}
        for base in (*folders, *above):
            if all(base in (folder, parent_of(folder)) for folder in folders):
                return base
        raise InputError(
            f"checkpoints.path: the run of {self.address} has weights in "
            f"{format_names(folder or 'its top' for folder in sorted(folders))}. Name the folder "
            f"of the checkpoints: runs:/{run.info.run_id}/<folder>."
        )

    def _artifacts(self, run: Run, path: str) -> Path:
        store = self._store(run)
        if found := artifacts_below(store, path):
            return self._kept(run, path, found)
        if models := [one for one in self._logged_by(run) if one.model.name == path]:
            return self._models(models)
        there = sorted({one.path.partition("/")[0] for one in artifacts_below(store)})
        raise self._nothing(
            f"the run has no artifact and no logged model {path!r}; its artifacts are "
            f"{format_names(there) or 'none'}"
        )

    def _kept(self, run: Run, base: str, artifacts: Sequence[FileInfo]) -> Path:
        """Return where artifacts of a run are on this machine, fetched if they are elsewhere."""
        store = self._store(run)
        if (local := local_folder(store)) is not None:
            return local / base
        is_file = [one.path for one in artifacts] == [base]
        if is_file:
            base = parent_of(base)
        # A run that has ended is begun again before more is logged to it, as a rule.
        ended = run.info.end_time if run.info.status in _ENDED else None
        stamp = f"{run.info.run_id} {ended}" if ended else ""
        part = Part(store, artifacts, base=base, stamp=stamp)
        return fetch(ArtifactSource(self.address, [part], is_file=is_file), self.cache)

    def _logged_by(self, run: Run) -> list["_Logged"]:
        """Return the models that a run logged, in the order of their steps."""
        outputs = run.outputs.model_outputs if run.outputs else []
        found = [_Logged(one.step, self.client.get_logged_model(one.model_id)) for one in outputs]
        return sorted(found, key=lambda one: (one.step, one.model.creation_timestamp))

    def _lone(self, model: LoggedModel) -> Path:
        own = model.source_run_id
        logged = self._logged_by(self.client.get_run(own)) if own else []
        steps = [one.step for one in logged if one.model.model_id == model.model_id]
        return self._models([_Logged(steps[-1] if steps else 0, model)])

    def _models(self, logged: Sequence["_Logged"]) -> Path:
        """Fetch logged models, a folder each: named by its step, or by itself where it has none."""
        by_step = any(one.step for one in logged)
        parts, left_out = {}, []
        for one in logged:
            into = f"checkpoint-{one.step}" if by_step else one.model.name
            part = self._part_of(one.model, into)
            if part is None:
                left_out.append(f"{one.model.name} ({one.model.model_id})")
            else:
                # Logged twice at a step, the later one stands.
                parts[into] = part
        if not parts:
            raise self._nothing(
                f"of {format_names(left_out)} MLflow has no weights, unless in a pickled or "
                "exported model, which is not executed"
            )
        if left_out:
            logger.info("Without weights that are read: %s", format_names(left_out))
        return fetch(ArtifactSource(self.address, list(parts.values())), self.cache)

    def _part_of(self, model: LoggedModel, into: str) -> Part | None:
        """Return the files of a logged model that are read: those of its one folder of weights."""
        store = repository_of(model.artifact_location)
        every = artifacts_below(store)
        folders = sorted({parent_of(one.path) for one in every if has_weights(one)})
        if not folders:
            return None
        if len(folders) > 1:
            raise InputError(
                f"checkpoints.path: the logged model {model.name} of {self.address} has "
                f"weights in {format_names(folders)}. Keep its files in one folder."
            )
        own = [one for one in every if parent_of(one.path) == folders[0]]
        stamp = f"{model.model_id} {model.last_updated_timestamp}"
        return Part(store, own, base=folders[0], into=into, stamp=stamp)

    def _store(self, run: Run) -> ArtifactRepository:
        store = repository_of(run.info.artifact_uri)
        folder = local_folder(store)
        if folder is not None and not folder.exists() and TRACKED.may_be_away(server_address()):
            logger.warning(
                "MLflow's server keeps the run's artifacts in a folder of its own machine, %s: "
                "start it with --artifacts-destination, so that it serves them",
                folder,
            )
        return store

    def _nothing(self, why: str) -> InputError:
        return InputError(f"checkpoints.path: {self.address} has no checkpoint: {why}. {_LOG_THEM}")


@dataclass(frozen=True)
class _Logged:
    """A model that a run logged at a step."""

    step: int
    model: LoggedModel

"""Which versions of the watched models need an audit, and why the others do not."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from sourcetrace.audit.gate.report import OUTCOMES
from sourcetrace.audit.identity.audit_key import KEY, AuditKey
from sourcetrace.checkpoints.places.addresses import is_local
from sourcetrace.checkpoints.places.path_template import PathTemplate
from sourcetrace.configuration import merge_parameters
from sourcetrace.errors import InputError
from sourcetrace.parameters import CheckpointParameters, WatchedModelParameters
from sourcetrace.tracking.lineage.model_version import STATUS
from sourcetrace.tracking.places.local import fetch_checkpoints, open_local
from sourcetrace.tracking.scheduling.planned_version import PlannedVersion

SKIP = "audit.skip"
"""Tag of a version that is not to be audited; `false` is no such tag."""

_UNFINISHED = {
    "running": "its audit was killed",
    "error": "its audit broke off",
    "unjudged": "no gate judged it",
}

CurrentKey = Callable[[Mapping[str, Any]], AuditKey]
"""Returns the key that an audit with some parameters of its own would have now."""


def plan_audits(
    client: MlflowClient,
    watched: Sequence[WatchedModelParameters],
    *,
    current_key: CurrentKey,
    given: Mapping[str, Any] | None = None,
    force: bool = False,
) -> list[PlannedVersion]:
    """Return every version of the watched models, the oldest of each first.

    Args:
        client: Of the registry.
        watched: The models.
        current_key: Called for versions with a finished audit alone.
        given: Parameters of the command line, which come before a model's own.
        force: Whether those are audited as well.
    """
    planned: list[PlannedVersion] = []
    plan = partial(_plan_version, client, current_key=current_key, given=given or {}, force=force)
    for model in watched:
        try:
            versions = _versions(client, model.name)
        except InputError as error:
            planned.append(PlannedVersion(model.name, "", "error", str(error)))
            continue
        if not versions:
            planned.append(PlannedVersion(model.name, "", "skip", "no version is registered"))
        older = len(versions) - (model.newest or len(versions))
        for place, version in enumerate(versions):
            age = f"older than the {model.newest} newest" if place < older else ""
            left_out = age or _left_out(version)
            number = str(version.version)
            planned.append(
                PlannedVersion(model.name, number, "skip", left_out)
                if left_out
                # The search may leave tags out.
                else plan(model, client.get_model_version(model.name, number))
            )
    return planned


def _left_out(version: ModelVersion) -> str:
    """Return why a version is not even looked at; nothing where it is."""
    if version.current_stage == "Archived":
        return "archived"
    return "" if version.status == "READY" else f"its registration is {version.status}"


def _plan_version(
    client: MlflowClient,
    model: WatchedModelParameters,
    version: ModelVersion,
    *,
    current_key: CurrentKey,
    given: Mapping[str, Any],
    force: bool,
) -> PlannedVersion:
    planned = PlannedVersion(model.name, str(version.version), "skip", f"tag {SKIP}")
    if version.tags.get(SKIP, "false") != "false":
        return planned
    try:
        path = _path_of(client, model, version)
        parameters = merge_parameters(model.parameters, given, _audited(planned, path))
        planned = replace(planned, checkpoints=path, parameters=parameters)
        if is_local(path):  # what is elsewhere is fetched where there is an audit to compare with
            open_local(fetch_checkpoints(CheckpointParameters(path=path))).files()
        reason = _why_due(version.tags, lambda: current_key(planned.parameters))
    except InputError as error:
        return replace(planned, action="error", reason=str(error))
    if reason is None and force:
        reason = "--force"
    if reason is None:
        return replace(planned, reason=f"audited: {version.tags[STATUS]}")
    return replace(planned, action="audit", reason=reason)


def _path_of(client: MlflowClient, model: WatchedModelParameters, version: ModelVersion) -> str:
    if model.checkpoints is None:
        return f"models:/{model.name}/{version.version}"
    return PathTemplate(model.checkpoints).fill(
        version=str(version.version),
        run_id=version.run_id or None,
        tag=lambda name: _tag(client, version, name),
    )


def _why_due(tags: Mapping[str, str], current_key: Callable[[], AuditKey]) -> str | None:
    """Return why a version is to be audited; None where its audit is of what is there now."""
    status = tags.get(STATUS)
    if status is None:
        return "never audited"
    if status not in OUTCOMES:
        return _UNFINISHED.get(status, "its audit did not end")
    earlier = AuditKey.parse(tags.get(KEY))
    if earlier is None:
        return "it is not known what its audit was of"
    current = current_key()
    became = f"sourcetrace {earlier.sourcetrace} became {current.sourcetrace}"
    told = [
        became if part == "sourcetrace" else f"{part} changed"
        for part in current.changes_since(earlier)
    ]
    return ", ".join(told) or None


def _audited(planned: PlannedVersion, path: str) -> dict[str, Any]:
    # An alias in the project's parameters would name a second version.
    registered = {"name": planned.model, "version": planned.version, "alias": None}
    return {"checkpoints": {"path": path}, "tracking": {"registered_model": registered}}


def _versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    """Return a model's versions, the oldest first.

    Raises:
        InputError: If there is no such model.
    """
    try:
        client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise InputError(
            f"there is no registered model {name!r}. Correct its name in tracking.pending."
        ) from error
    found: list[ModelVersion] = []
    page, token = None, None
    while page is None or token:
        quote = '"' if "'" in name else "'"
        page = client.search_model_versions(f"name = {quote}{name}{quote}", page_token=token)
        found += page
        token = page.token
    return sorted(found, key=lambda one: int(one.version))


def _tag(client: MlflowClient, version: ModelVersion, name: str) -> str | None:
    """Return a tag of a version, or else of the run that registered it."""
    if name in version.tags or not version.run_id:
        return version.tags.get(name)
    try:
        found: str | None = client.get_run(version.run_id).data.tags.get(name)
    except MlflowException:
        # Deleted, or of another server.
        return None
    return found

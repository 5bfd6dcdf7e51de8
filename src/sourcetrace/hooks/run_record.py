"""What kedro-mlflow leaves out: the code's revision, versions, and single parameters."""

import hashlib
import platform
import posixpath
import re
from collections.abc import Generator, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import mlflow
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from kedro_mlflow.io.metrics import MlflowMetricsHistoryDataset
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME
from pydantic import BaseModel

from sourcetrace import __version__
from sourcetrace.audit.identity.code_revision import CodeRevision
from sourcetrace.namespace import AuditCatalog, AuditNames
from sourcetrace.redaction import bare_address, hide_values
from sourcetrace.reporting.records import Trust
from sourcetrace.reporting.trust import Retraining

_PACKAGES = (
    "torch",
    "kedro",
    "kedro-mlflow",
    "mlflow",
    "numpy",
    "pandera",
    "polars",
    "safetensors",
)
"""What decides the numbers and how they are kept."""

_JUDGED = frozenset({"audit_summary", "gate_report", "verification_summary"})
"""Results after which a run is called by what it audited, and not by its pipeline."""

_LONGEST_NAME = 200
"""Characters; MLflow takes 250, a data set's prefix included."""


class SecretsHook:
    """Hides secret values of the command line before kedro-mlflow tags the run with them."""

    @hook_impl(tryfirst=True)
    def before_pipeline_run(self, run_params: dict[str, Any]) -> None:
        """Change the record of the run alone; the catalog has the parameters already."""
        for name in ("runtime_params", "extra_params"):
            if run_params.get(name):
                run_params[name] = hide_values(run_params[name])


class RunRecordHook:
    """Logs tags and parameters as soon as kedro-mlflow has started the run."""

    def __init__(self) -> None:
        self._project = Path()
        self._names = AuditNames()
        self._metrics: set[str] = set()
        self._is_named = False

    # Behind kedro-mlflow, which reads its configuration.
    @hook_impl(trylast=True)
    def after_context_created(self, context: KedroContext) -> None:
        """Remember where the project is, and whether somebody has named the run or begun it."""
        self._project = Path(context.project_path)
        named = context.mlflow.tracking.run  # type: ignore[attr-defined]
        self._is_named = bool(named.name or named.id or mlflow.active_run())

    @hook_impl(trylast=True)
    def before_pipeline_run(self, pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Tag the active run and log its parameters one by one; without one, tracking is off.

        kedro-mlflow logs a parameter group that pydantic has checked as one line of text, which
        nobody can filter runs by.
        """
        self._names = AuditNames.of(pipeline)
        self._metrics = {
            name
            for name in pipeline.all_outputs()
            if name in catalog and isinstance(catalog[name], MlflowMetricsHistoryDataset)
        }
        if mlflow.active_run() is None:
            return
        sources = [name for name in sorted(pipeline.inputs()) if name.startswith("params:")]
        given = {name.removeprefix("params:"): _plain(catalog.load(name)) for name in sources}
        leaves = _flat(hide_values(given))
        mlflow.log_params({_mlflow_name(name): value for name, value in leaves})
        mlflow.set_tags(_environment_tags(self._project))
        if not self._is_named and self._names.made_by(pipeline) & _JUDGED:
            audit = AuditCatalog(catalog, self._names)
            verifies = "verification_summary" in self._names.made_by(pipeline)
            mlflow.set_tag(
                MLFLOW_RUN_NAME, _run_name(_plain(audit.parameters()), verifies=verifies)
            )

    @hook_impl(wrapper=True)
    def before_node_run(self, inputs: dict[str, Any]) -> Generator[None, Any, Any]:
        """Hide from kedro-mlflow the groups of parameters that were logged one by one."""
        groups = {key: value for key, value in inputs.items() if isinstance(value, BaseModel)}
        for name in groups:
            del inputs[name]
        try:
            return (yield)
        finally:
            inputs.update(groups)

    @hook_impl
    def before_dataset_saved(self, dataset_name: str, data: Any) -> None:
        """Give metrics names that MLflow takes: a layer, or a user's column, may have any name."""
        if dataset_name in self._metrics:
            for name in [one for one in data if _mlflow_name(one) != one]:
                data[_mlflow_name(name)] = data.pop(name)

    @hook_impl
    def after_node_run(self, outputs: dict[str, Any]) -> None:
        """Tag the run with how far its scores can be trusted, and which scores they are."""
        if mlflow.active_run() is None:
            return
        outputs = self._names.own(outputs)
        if "audit_summary" in outputs:
            summary = outputs["audit_summary"]
            trust, scores = Trust.model_validate(summary["trust"]), summary["scores_digest"]
        elif "verification_summary" in outputs:
            verified = outputs["verification_summary"]
            trust, scores = Retraining(verified).figure(), verified["scores_digest"][0]
        else:
            return
        mlflow.set_tags({"audit.trust": f"{trust.status}: {trust.text}", "audit.scores": scores})


def _run_name(parameters: Mapping[str, Any], *, verifies: bool) -> str:
    """Return what a run audits, and how: `churn v7: scaled_source`, `Churn in run-3: source`."""
    model = (parameters.get("tracking") or {}).get("registered_model")
    path = parameters["checkpoints"]["path"]
    if model is not None:
        version = model.get("version")
        what = f"{model['name']} {f'v{version}' if version else '@' + model['alias']}"
    else:
        place = bare_address(path if isinstance(path, str) else path[-1])
        task = parameters["task"]["class"].rpartition(".")[2]
        what = f"{task} in {place.rstrip('/').rpartition('/')[2]}"
    verified = ", verified" if verifies else ""
    return f"{what}: {parameters['attribution']['method']}{verified}"


def _plain(value: Any) -> Any:
    """Return a value without models, which Kedro also puts into groups of parameters."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True)
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return value


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of parameters, `attribution.method` and so on."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _environment_tags(project: Path) -> dict[str, str]:
    """Return the versions, and the revision where the project is in a git repository."""
    tags = {"sourcetrace.version": __version__, "sourcetrace.python": platform.python_version()}
    for name in _PACKAGES:
        try:
            tags[f"sourcetrace.{name}"] = version(name)
        except PackageNotFoundError:
            continue
    if (revision := CodeRevision.of(project)) is not None:
        tags["mlflow.source.git.commit"] = revision.commit
        tags["sourcetrace.git.dirty"] = str(revision.dirty).lower()
    return tags


def _mlflow_name(name: str) -> str:
    """Return a name as MLflow takes it: itself, or what is left of it with a digest behind.

    Two names stay two: the digest is of the whole name.
    """
    clean = re.sub(r"[^/\w.\- :]", "_", name)
    # MLflow refuses names that, as paths, would be others.
    if posixpath.normpath(f"a/{clean}") != f"a/{clean}" or clean.startswith("/"):
        clean = re.sub(r"^\.+|/", "_", clean)
    if clean == name and len(name) <= _LONGEST_NAME:
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{clean[:_LONGEST_NAME]}_{digest}"

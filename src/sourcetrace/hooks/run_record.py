"""What kedro-mlflow leaves out: the code's revision, versions, and single parameters."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from kedro_mlflow.io.metrics import MlflowMetricsHistoryDataset
from pydantic import BaseModel

from sourcetrace.namespace import AuditNames
from sourcetrace.redaction import hide_value, hide_values
from sourcetrace.reporting.trust import Retraining
from sourcetrace.tracking.lineage.environment import environment_tags
from sourcetrace.tracking.lineage.names import mlflow_name


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

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Remember where the project is."""
        self._project = Path(context.project_path)

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
        mlflow.log_params(
            {
                mlflow_name(name): value
                for source in sorted(pipeline.inputs())
                if source.startswith("params:")
                for name, value in _flat(source.removeprefix("params:"), catalog.load(source))
            }
        )
        mlflow.set_tags(environment_tags(self._project))

    @hook_impl
    def before_dataset_saved(self, dataset_name: str, data: Any) -> None:
        """Give metrics names that MLflow takes: a layer, or a user's column, may have any name."""
        if dataset_name in self._metrics:
            for name in [one for one in data if mlflow_name(one) != one]:
                data[mlflow_name(name)] = data.pop(name)

    @hook_impl
    def after_node_run(self, outputs: dict[str, Any]) -> None:
        """Tag the run with how far its scores can be trusted, and which scores they are."""
        if mlflow.active_run() is None:
            return
        outputs = self._names.own(outputs)
        if "audit_summary" in outputs:
            trust = outputs["audit_summary"]["trust"]
            tags = {
                "trust": f"{trust['status']}: {trust['text']}",
                "scores": outputs["audit_summary"]["scores_digest"],
            }
        elif "verification_summary" in outputs:
            summary = outputs["verification_summary"]
            figure = Retraining(summary).figure()
            tags = {
                "trust": f"{figure.status}: {figure.text}",
                "scores": summary["scores_digest"][0],
            }
        else:
            return
        mlflow.set_tags({f"audit.{name}": value for name, value in tags.items()})


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the leaves of a parameter group, `attribution.method` and so on."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", by_alias=True)
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}", inner)
    else:
        yield name, hide_value(name, value)

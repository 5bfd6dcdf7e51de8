"""Tells a file of OpenLineage events what a run read and wrote, where the parameters ask for it."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from sourcetrace.integrations import extra
from sourcetrace.namespace import AuditCatalog, AuditNames
from sourcetrace.redaction import error_line
from sourcetrace.tracking.lineage.read_parameters import read_tracking
from sourcetrace.tracking.server.tracked import TRACKED

if TYPE_CHECKING:
    from sourcetrace.integrations.openlineage import RunEvents

logger = logging.getLogger(__name__)


class OpenLineageHook:
    """Writes START, and COMPLETE or FAIL, of a run and of each of its nodes.

    Nothing that goes wrong here fails the run: the log says so once, and the events end.
    """

    def __init__(self) -> None:
        self._project = Path()
        self._events: RunEvents | None = None

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Remember where the project is."""
        self._project = Path(context.project_path)

    @hook_impl(trylast=True)
    def before_pipeline_run(
        self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog
    ) -> None:
        """Start, where `tracking.openlineage` is set.

        Raises:
            InputError: If it is set and the package is not installed.
        """
        self._events, audit = None, AuditNames.of(pipeline)
        parameters = read_tracking(AuditCatalog(catalog, audit)).openlineage
        if parameters is None:
            return
        with extra(
            "openlineage", because="tracking.openlineage is set", otherwise=", or set it to null"
        ):
            from sourcetrace.integrations.openlineage import RunEvents  # noqa: PLC0415, optional

        names = run_params.get("pipeline_names") or [run_params.get("pipeline_name")]
        try:
            self._events = RunEvents(
                parameters,
                catalog=catalog,
                names=audit,
                job="+".join(name or "__default__" for name in names),
                project=self._project,
                mlflow_run=TRACKED.run_id or None,
            )
        except Exception as error:
            self._give_up(error)

    @hook_impl
    def before_node_run(self, node: Node) -> None:
        """Say that a node begins."""
        self._tell("emit", "START", node.name)

    @hook_impl
    def after_node_run(self, node: Node, inputs: dict[str, Any], outputs: dict[str, Any]) -> None:
        """Say that a node ended."""
        self._tell("end_node", node.name, inputs=inputs, outputs=outputs)

    @hook_impl
    def on_node_error(self, error: Exception, node: Node) -> None:
        """Say that a node failed."""
        self._tell("emit", "FAIL", node.name, error=error)

    @hook_impl
    def after_pipeline_run(self) -> None:
        """Say that the run ended."""
        self._tell("end", None)

    @hook_impl
    def on_pipeline_error(self, error: Exception) -> None:
        """Say that the run failed; a failed gate ends it so, with everything written."""
        self._tell("end", error)

    def _tell(self, event: str, *values: Any, **more: Any) -> None:
        if self._events is not None:
            try:
                getattr(self._events, event)(*values, **more)
            except Exception as error:
                self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._events = None
        logger.warning("OpenLineage's events end here: %s", error_line(error))

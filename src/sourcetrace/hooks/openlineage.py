"""Tells a file of OpenLineage events what a run read and wrote, where the parameters ask for it."""

import logging
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from sourcetrace.errors import InputError
from sourcetrace.namespace import AuditCatalog, AuditNames
from sourcetrace.redaction import error_line
from sourcetrace.tracking.lineage.read_parameters import read_tracking
from sourcetrace.tracking.lineage.record import CheckpointFile, DataRecord
from sourcetrace.tracking.lineage.run_lineage import QUERIES, TRAINING_DATA
from sourcetrace.tracking.server.tracked import TRACKED

if TYPE_CHECKING:
    from openlineage.client.event_v2 import InputDataset, OutputDataset

    from sourcetrace.integrations.openlineage import RunEvents

logger = logging.getLogger(__name__)

_RESULTS = (
    "attribution_scores",
    "review_list",
    "cleaning_report",
    "gate_report",
    "audit_result",
    "model_card",
    "ml_bom",
)
"""What an audit is run for; the other entries are outputs of its nodes alone."""


class OpenLineageHook:
    """Writes START, and COMPLETE or FAIL, of a run and of each of its nodes.

    Nothing that goes wrong here fails the run: the log says so once, and the events end.
    """

    def __init__(self) -> None:
        self._project = Path()
        self._names = AuditNames()
        self._events: RunEvents | None = None
        self._outputs: dict[str, Any] = {}

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
        self._names, self._events, self._outputs = AuditNames.of(pipeline), None, {}
        parameters = read_tracking(AuditCatalog(catalog, self._names)).openlineage
        if parameters is None:
            return
        if find_spec("openlineage") is None:
            raise InputError(
                "tracking.openlineage is set, but the package openlineage-python is not "
                "installed. Run `pip install 'sourcetrace[openlineage]'`, or set it to null."
            )
        from sourcetrace.integrations.openlineage import RunEvents  # noqa: PLC0415, optional

        names = run_params.get("pipeline_names") or [run_params.get("pipeline_name")]

        def start() -> None:
            self._events = RunEvents(
                parameters,
                job="+".join(name or "__default__" for name in names),
                project=self._project,
                mlflow_run=TRACKED.run_id or None,
            )
            self._events.start()

        self._try(start)

    @hook_impl
    def before_node_run(self, node: Node) -> None:
        """Say that a node begins."""
        if (events := self._events) is not None:
            self._try(lambda: events.start_node(node.name))

    @hook_impl
    def after_node_run(
        self, node: Node, catalog: DataCatalog, inputs: dict[str, Any], outputs: dict[str, Any]
    ) -> None:
        """Say that a node ended, and keep what the run's own end needs."""
        if (events := self._events) is None:
            return
        kept = (*_RESULTS, "data_digests", "checkpoint_manifest")
        own = self._names.own(outputs)
        self._outputs |= {name: own[name] for name in kept if name in own}
        self._try(
            lambda: events.end_node(
                node.name,
                inputs=[
                    events.input(name, events.entry_facets(name, catalog, value))
                    for name, value in inputs.items()
                    if not _is_parameter(name)
                ],
                outputs=[
                    events.output(name, events.entry_facets(name, catalog, value))
                    for name, value in outputs.items()
                ],
            )
        )

    @hook_impl
    def on_node_error(self, error: Exception, node: Node) -> None:
        """Say that a node failed."""
        if (events := self._events) is not None:
            self._try(lambda: events.end_node(node.name, error=error))

    @hook_impl
    def after_pipeline_run(self, catalog: DataCatalog) -> None:
        """Say that the run ended."""
        self._end(catalog, error=None)

    @hook_impl
    def on_pipeline_error(self, error: Exception, catalog: DataCatalog) -> None:
        """Say that the run failed; a failed gate ends it so, with everything written."""
        self._end(catalog, error=error)

    def _end(self, catalog: DataCatalog, *, error: Exception | None) -> None:
        if (events := self._events) is None:
            return
        self._try(
            lambda: events.end(
                inputs=self._read(events), outputs=self._written(events, catalog), error=error
            )
        )
        self._events = None

    def _read(self, events: "RunEvents") -> "list[InputDataset]":
        """Return data and checkpoints, where this run read them."""
        digests = self._outputs.get("data_digests", {})
        manifest = self._outputs.get("checkpoint_manifest")
        return [
            *(
                events.audited_data(name, DataRecord.of_digests(digests[key]))
                for key, name in (("training", TRAINING_DATA), ("queries", QUERIES))
                if key in digests
            ),
            *(
                events.checkpoint(one)
                for one in (() if manifest is None else CheckpointFile.of_manifest(manifest))
            ),
        ]

    def _written(self, events: "RunEvents", catalog: DataCatalog) -> "list[OutputDataset]":
        return [
            events.output(
                self._names.full(name),
                events.entry_facets(self._names.full(name), catalog, self._outputs[name]),
            )
            for name in _RESULTS
            if name in self._outputs
        ]

    def _try(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            self._events = None
            logger.warning("OpenLineage's events end here: %s", error_line(error))


def _is_parameter(name: str) -> bool:
    return name == "parameters" or name.startswith("params:")

"""Nodes run again in the same run, that took for usable what a later one has set aside.

Most of such examples are found by the extraction. What fails first behind it was in tables that are
saved by then; without it they are, after the run, those of one that knew it from its start. So it
is with a kept curvature that a later node gives up. Tables of an earlier run that have such an
example, or another curvature, are refused.
"""

from typing import Any

from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node
from kedro.runner import SequentialRunner

from sourcetrace.errors import InputError
from sourcetrace.namespace import AuditNames


class SetAsideHook:
    """Keeps what a run has saved to the examples that can be used."""

    def __init__(self) -> None:
        self._setup, self._listed, self._kept = "", "", ""
        self._behind, self._done = Pipeline([]), Pipeline([])
        self._known: object = None

    @hook_impl
    def before_pipeline_run(self, pipeline: Pipeline) -> None:
        """Note which nodes are behind an audit's set-up."""
        names = AuditNames.of(pipeline)
        self._setup, self._listed = names.full("audit_setup"), names.full("set_aside")
        taken = names.full("curvature") in pipeline.inputs()
        self._kept = names.full("kept_curvature") if taken else ""
        prepared = self._setup in pipeline.datasets()
        self._behind = pipeline.from_inputs(self._setup) if prepared else Pipeline([])
        self._done, self._known = Pipeline([]), None

    @hook_impl
    def after_node_run(
        self, node: Node, catalog: DataCatalog, inputs: dict[str, Any], outputs: dict[str, Any]
    ) -> None:
        """Run those again that ran before, if a node has set examples aside or taken a curvature.

        Raises:
            InputError: If an earlier run's tables are of other examples, or of another curvature.
        """
        setup = {**inputs, **outputs}.get(self._setup)
        if setup is not None:
            for name, refuse in ((self._listed, _refuse_listed), (self._kept, _refuse_kept)):
                if name and name not in self._behind.all_outputs() and catalog.exists(name):
                    refuse(catalog.load(name), setup)
            known, self._known = self._known, setup.stands_on
            if known not in (None, self._known):
                SequentialRunner().run(self._done, catalog)
        self._done += Pipeline([node]) & self._behind


def _refuse_listed(listed: list[dict[str, Any]], setup: Any) -> None:
    now = setup.set_aside.listed()
    known, found = ({(one["side"], one["index"]) for one in some} for some in (listed, now))
    if known != found:
        raise InputError(
            "Of the examples that cannot be used, the tables of gradient_extraction leave out "
            f"{len(known)}; {len(found)} are set aside by now. Run `kedro run --pipelines audit`; "
            "what is computed stands."
        )


def _refuse_kept(kept: dict[str, Any], setup: Any) -> None:
    if kept.get("of", "") != setup.stands_on[1]:
        raise InputError(
            "The stored curvature is of other examples than the one that a run would take now "
            "(attribution.kept_curvature). Run `kedro run --pipelines audit`; what is computed "
            "stands."
        )

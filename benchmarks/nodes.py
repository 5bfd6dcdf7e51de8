"""A project's run in this process, timed node by node."""

from collections.abc import Sequence

from benchmarks.measurement import Measurement, Stopwatch
from kedro.framework.hooks import hook_impl
from kedro.pipeline.node import Node

from sourcetrace import settings
from sourcetrace.__main__ import main as run_project


class _Watch:
    """Times a run by node; what precedes the first and follows the last counts as well."""

    def __init__(self) -> None:
        self.stopwatch, self._node = Stopwatch(), ""
        self.stopwatch.start("imports, catalog, MLflow")

    @hook_impl
    def before_dataset_loaded(self, node: Node) -> None:
        """Begin with what a node loads."""
        if node.name != self._node:
            self._node = node.name
            self.stopwatch.start(node.name)

    @hook_impl(tryfirst=True)
    def after_pipeline_run(self) -> None:
        """End the last node."""
        self.stopwatch.start("record of the audit")


def run_watched(arguments: Sequence[str]) -> Measurement:
    """Run the project of the working folder, and return what each node took.

    A node's seconds are those of loading, checking, running and writing.
    """
    watch = _Watch()
    settings.HOOKS = (*settings.HOOKS, watch)
    try:
        run_project(list(arguments))
    except SystemExit as end:
        if end.code not in (0, 1, None):
            raise
    watch.stopwatch.stop()
    return Measurement(watch.stopwatch.costs, {})

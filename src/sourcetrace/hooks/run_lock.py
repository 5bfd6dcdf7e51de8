"""One run at a time in a project: all runs write the same files in data/.

The lock is the operating system's: it ends with the process that holds it, however that ends.
A file beside it says who holds it.
"""

import atexit
from collections.abc import Generator
from typing import Any

from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog, SharedMemoryDataCatalog
from kedro.pipeline import Pipeline

from sourcetrace.errors import InputError
from sourcetrace.hooks.terminal import input_errors_shown
from sourcetrace.locks import PROJECT_LOCK, RUN_LOCK
from sourcetrace.namespace import AuditCatalog, AuditNames, stages_of


class RunLockHook:
    """Lets runs of one project follow each other."""

    # The outermost of the project's hooks: nothing is read before, and all is sent after.
    @hook_impl(wrapper=True, tryfirst=True)
    def before_pipeline_run(
        self, pipeline: Pipeline, catalog: DataCatalog
    ) -> Generator[None, Any, Any]:
        """Wait for the run that writes in this project, before anything is read.

        Raises:
            InputError: If the stages are of several audits, or to run in several processes, or
                a hook behind this one refuses the run.
        """
        with input_errors_shown():
            names = AuditNames.of(pipeline)
            if isinstance(catalog, SharedMemoryDataCatalog) and stages_of(pipeline):
                raise InputError(
                    "--runner ParallelRunner puts nodes into processes of their own, but the "
                    "stages of an audit hand on the model and its gradients in memory, and follow "
                    "each other. Leave --runner out, or use ThreadRunner; torch uses all cores by "
                    "itself."
                )
            audit = AuditCatalog(catalog, names)
            # What is done can be asked while a run does it.
            if "audit_log" in audit and names.made_by(pipeline) != {"audit_status"}:
                # An interruption calls no hook.
                atexit.register(PROJECT_LOCK.release)
                PROJECT_LOCK.acquire(audit.log.with_name(RUN_LOCK), wait=True)
            return (yield)

    @hook_impl(wrapper=True, tryfirst=True)
    def after_pipeline_run(self) -> Generator[None, Any, Any]:
        """Let the next run begin."""
        try:
            return (yield)
        finally:
            PROJECT_LOCK.release()

    on_pipeline_error = after_pipeline_run

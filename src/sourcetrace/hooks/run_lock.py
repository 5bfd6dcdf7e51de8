"""One run at a time in a project: all runs write the same files in data/.

The lock is the operating system's: it ends with the process that holds it, however that ends.
A file beside it says who holds it.
"""

import logging

from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline

from sourcetrace.locks import PROJECT_LOCK, RUN_LOCK
from sourcetrace.namespace import AuditCatalog, AuditNames

logger = logging.getLogger(__name__)


class RunLockHook:
    """Lets runs of one project follow each other."""

    @hook_impl(tryfirst=True)
    def before_pipeline_run(self, pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Wait for the run that writes in this project, before anything is read."""
        audit = AuditCatalog(catalog, AuditNames.of(pipeline))
        if "audit_log" in audit:
            PROJECT_LOCK.acquire(audit["audit_log"].path.with_name(RUN_LOCK), wait=True)

    @hook_impl(trylast=True)
    def after_pipeline_run(self) -> None:
        """Let the next run begin."""
        PROJECT_LOCK.release()

    @hook_impl(trylast=True)
    def on_pipeline_error(self) -> None:
        """Let the next run begin."""
        PROJECT_LOCK.release()

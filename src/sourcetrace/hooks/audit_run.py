"""Writes down when, from what and by which command an audit's scores were computed.

The page shows it; as a record it stays the same when the page is rendered again.
"""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mlflow
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from sourcetrace.audit.identity.code_revision import CodeRevision
from sourcetrace.namespace import AuditCatalog, AuditNames
from sourcetrace.reporting.records import AuditRun

_BEGINS, _SCORES = "checkpoint_manifest", "attribution_scores"
_TOLD = ("scores_digest", "commit", "dirty", "environment")
"""What a record is kept for that says the same."""


class AuditRunHook:
    """Writes the entry `audit_run` as soon as it is known which scores the run is about."""

    def __init__(self) -> None:
        self._project, self._environment = Path(), ""
        self._names, self._made = AuditNames(), set[str]()
        self._audit: AuditCatalog | None = None
        self._since = 0.0

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Remember the project and the command's environment."""
        self._project, self._environment = Path(context.project_path), context.env or ""

    @hook_impl(trylast=True)
    def before_pipeline_run(self, pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Remember what the run makes, and where."""
        self._names = AuditNames.of(pipeline)
        self._made = self._names.made_by(pipeline)
        self._audit = AuditCatalog(catalog, self._names)

    @hook_impl
    def before_node_run(self, node: Node) -> None:
        """Take the time at which the audit begins: a demo trains a model first."""
        if self._names.full(_BEGINS) in node.outputs:
            self._since = time.monotonic()

    @hook_impl
    def after_node_run(self, outputs: dict[str, Any]) -> None:
        """Write the record, unless the run is about scores that one is there of."""
        summary = self._names.own(outputs).get("audit_summary")
        if summary is None or self._audit is None or "audit_run" not in self._audit:
            return
        entry, record = self._audit["audit_run"], self._record(summary["scores_digest"])
        # A second run on finished work, and one that renders the page, computed none of them.
        told = _TOLD if _SCORES in self._made else _TOLD[:1]
        earlier, now = entry.load(), record.model_dump(mode="json")
        if not earlier or any(earlier.get(name) != now[name] for name in told):
            entry.save(now)

    def _record(self, scores_digest: str) -> AuditRun:
        run, revision = mlflow.active_run(), CodeRevision.of(self._project)
        whole = {_BEGINS, _SCORES} <= self._made
        return AuditRun(
            scores_digest=scores_digest,
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - self._since, 1) if whole else None,
            run_id=run.info.run_id if run else "",
            environment=self._environment,
            commit=revision.commit if revision else "",
            dirty=bool(revision and revision.dirty),
        )

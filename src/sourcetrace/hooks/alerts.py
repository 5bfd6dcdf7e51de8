"""Watches a run and tells of its end where the outcome asks for it."""

import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline

from sourcetrace.audit.gate.report import GateFailed, GateReport
from sourcetrace.hooks.terminal import readable_error
from sourcetrace.integrations.alerts.message import AlertOutcome, EndedAudit
from sourcetrace.integrations.alerts.outbox import OUTBOX
from sourcetrace.namespace import AuditCatalog, AuditNames
from sourcetrace.parameters import AlertParameters
from sourcetrace.tracking.history.audit_log import AuditHistory
from sourcetrace.tracking.server.tracked import TRACKED
from sourcetrace.validation import validated

logger = logging.getLogger(__name__)

_KEPT = ("gate_report", "audit_summary")


class AlertHook:
    """Sends an alert when an audit ends with one of `alerts.outcomes`, or a run with an error."""

    def __init__(self) -> None:
        self._params: Mapping[str, Any] = {}
        self._names = AuditNames()
        self._outputs: dict[str, Any] = {}

    @hook_impl(trylast=True)
    def after_context_created(self, context: KedroContext) -> None:
        """Read the parameters; what is wrong with them is said elsewhere."""
        self._project = Path(context.project_path).name
        self._params, OUTBOX.parameters = {}, AlertParameters()
        # The defaults serve to tell of an error here, too.
        with suppress(Exception):
            # As they are written: Kedro loads every pipeline to check `context.params`.
            self._params = context.config_loader["parameters"]
            OUTBOX.parameters = AlertParameters.model_validate(self._params.get("alerts") or {})

    @hook_impl(trylast=True)
    def before_pipeline_run(self, pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Refuse before any work what would keep an alert back, and see what is there before it.

        Raises:
            InputError: If the parameters `alerts` are wrong, or an address is set without the
                packages to send to it.
        """
        # What is known of it may be forgotten at its end.
        self._run_id, self._run_url = TRACKED.run_id, TRACKED.run_url
        self._outputs = {}
        self._names = AuditNames.of(pipeline)
        self._audit = AuditCatalog(catalog, self._names)
        self._audits_before = len(self._audits())
        validated(
            AlertParameters,
            self._params.get("alerts") or {},
            name="alerts",
            after=" conf/base/parameters_alerts.yml has every key.",
        )
        OUTBOX.check()

    @hook_impl
    def after_node_run(self, outputs: dict[str, Any]) -> None:
        """Keep the figures."""
        own = self._names.own(outputs)
        self._outputs |= {name: own[name] for name in _KEPT if name in own}

    # Last: the audit is recorded by then.
    @hook_impl(trylast=True)
    def after_pipeline_run(self) -> None:
        """Tell how the audit ended."""
        self._tell(error=None)

    @hook_impl(trylast=True)
    def on_pipeline_error(self, error: Exception) -> None:
        """Tell of the error, which may be the gate's verdict."""
        self._tell(error=error)

    def _tell(self, *, error: Exception | None) -> None:
        try:
            audit = self._ended(error=error)
            if audit is not None:
                OUTBOX.tell(audit)
        except Exception as raised:
            # Its name alone: what it says may quote the data.
            logger.warning("No alert could be made (%s).", type(raised).__name__)

    def _ended(self, *, error: Exception | None) -> EndedAudit | None:
        """Return how the run ended; None where it went well and judged nothing."""
        report = self._outputs.get("gate_report")
        gate = None if report is None else GateReport.model_validate(report)
        known = readable_error(error) or error
        if gate is None and isinstance(known, GateFailed):
            # A scheduler that runs every node as a run of its own: the one that judged has told.
            return None
        added = self._audits()[self._audits_before :]
        row = next((one for one in reversed(added) if one["run_id"] == self._run_id), None)
        outcome: AlertOutcome | None = gate.outcome if gate else None
        if error is not None and outcome != "fail":
            outcome = "error"
        elif gate is not None and row is not None and row["status"] == "fail":
            # The comparison with the data that trained the version, which the gate knows not of.
            outcome = "fail"
        if outcome is None:
            return None
        summary = self._outputs.get("audit_summary")
        if gate and summary is None and self._audit.exists("audit_summary"):
            summary = self._audit.load("audit_summary")
        return EndedAudit(
            outcome=outcome,
            project=self._project,
            error=type(known).__name__ if outcome == "error" else None,
            model=_model(row, self._params),
            run_id=self._run_id,
            run_url=self._run_url,
            gate=gate,
            summary=summary if gate else None,
        )

    def _audits(self) -> list[dict[str, Any]]:
        return AuditHistory(self._audit.log).read() if "audit_log" in self._audit else []


def _model(row: Mapping[str, Any] | None, params: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the audited version: as it was recorded, or else as the parameters name it."""
    if row is not None and row["model_name"] and row["model_version"]:
        return row["model_name"], row["model_version"]
    named = (params.get("tracking") or {}).get("registered_model") or {}
    where = named.get("version") or named.get("alias")
    return (str(named["name"]), str(where)) if named.get("name") and where else None

"""The documents, from the verdict and the result."""

from typing import Any

import polars as pl

from sourcetrace.audit.gate.audit_result import AuditResult
from sourcetrace.audit.gate.report import GateReport
from sourcetrace.audit.identity.code_revision import CodeRevision
from sourcetrace.parameters import RegisteredModelParameters
from sourcetrace.reporting.documents.facts import AuditFacts


def gather_facts(
    audit_result: dict[str, Any],
    gate_report: dict[str, Any],
    verification_summary: pl.DataFrame,
    code_revision: dict[str, Any],
    registered_model: dict[str, Any] | None,
) -> AuditFacts:
    """Return what the documents say of an audit."""
    result = AuditResult.model_validate(audit_result)
    # It may be of other scores: then the result has no figure.
    interval = verification_summary.filter(measure="lds").drop_nans("high").drop_nulls("high")
    return AuditFacts(
        result=result,
        gate=GateReport.model_validate(gate_report),
        trust_high=interval["high"][0]
        if result.trust.lds is not None and not interval.is_empty()
        else None,
        revision=CodeRevision(**code_revision) if code_revision else None,
        # The lineage hook has refused a wrong one.
        model=RegisteredModelParameters.model_validate(registered_model)
        if registered_model
        else None,
    )

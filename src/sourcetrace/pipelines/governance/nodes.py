"""The documents, from the verdict and the result."""

from importlib.util import find_spec
from typing import Any

import polars as pl
from kedro.pipeline import Pipeline

from sourcetrace.audit.gate.audit_result import AuditResult
from sourcetrace.audit.gate.report import GateReport
from sourcetrace.audit.identity.code_revision import CodeRevision
from sourcetrace.parameters import RegisteredModelParameters
from sourcetrace.pipelines.shared.step import step
from sourcetrace.reporting.documents.facts import AuditFacts, render_model_card


def gather_facts(
    audit_result: dict[str, Any],
    gate_report: dict[str, Any],
    verification_summary: pl.DataFrame,
    code_revision: dict[str, Any],
    audit_run: dict[str, Any] | None,
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
        environment=(audit_run or {}).get("environment", ""),
        # The lineage hook has refused a wrong one.
        model=RegisteredModelParameters.model_validate(registered_model)
        if registered_model
        else None,
    )


# Not the whole group: kedro-mlflow logs what a node takes.
PIPELINE = Pipeline(
    [
        step(gather_facts, "audit_facts", registered_model="params:tracking.registered_model"),
        step(render_model_card, "model_card", facts="audit_facts"),
    ]
)
if find_spec("cyclonedx"):  # The bill of materials is an extra.
    from sourcetrace.integrations.ml_bom import make_ml_bom

    PIPELINE += Pipeline([step(make_ml_bom, "ml_bom", facts="audit_facts")])

DOCUMENTS = sorted(PIPELINE.outputs())
"""What is there before a verdict is enforced."""

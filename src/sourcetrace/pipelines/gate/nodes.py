"""Judge what an audit wrote, write the verdict, and only then raise."""

import platform
from importlib.metadata import version
from typing import Any

import polars as pl
from kedro.pipeline import Pipeline

from sourcetrace import __version__
from sourcetrace.audit.comparison.summary import Comparison
from sourcetrace.audit.gate.audit_result import AuditCounts, AuditDifference, AuditResult
from sourcetrace.audit.gate.baseline import Baseline
from sourcetrace.audit.gate.judge import judge
from sourcetrace.audit.gate.measured import Measured, measure_audit
from sourcetrace.audit.gate.report import GateFailed, GateReport
from sourcetrace.parameters import (
    AttributionParameters,
    GateParameters,
    GradientParameters,
    ReportParameters,
    SegmentParameters,
)
from sourcetrace.pipelines.governance.nodes import DOCUMENTS
from sourcetrace.pipelines.shared.metrics import logged
from sourcetrace.pipelines.shared.step import step
from sourcetrace.reporting.records import AuditSummary
from sourcetrace.reporting.trust import Retraining
from sourcetrace.schemas.metric_names import GateMetric
from sourcetrace.schemas.review import is_suspect

_LIBRARIES = ("torch", "polars", "kedro", "mlflow")


def read_baseline(gate_baseline: Any, gate: GateParameters) -> Baseline:
    """Return the approved metrics.

    It depends on nothing, so that a wrong or missing file ends the run at its start.
    """
    return Baseline.parse(gate_baseline, path=gate.baseline)


def measure(
    audit_summary: dict[str, Any],
    review_list: pl.DataFrame,
    train_table: pl.DataFrame,
    query_signals: pl.DataFrame,
    checkpoint_manifest: pl.DataFrame,
    verification_summary: pl.DataFrame,
    comparison_summary: dict[str, Any],
    kept_curvature: dict[str, Any],
    gate: GateParameters,
) -> dict[GateMetric, Measured]:
    """Return every number that a check can be about."""
    return measure_audit(
        review_list,
        train_table,
        query_signals,
        checkpoint_manifest,
        verification_summary,
        Comparison.from_json(comparison_summary),
        verified=Retraining(verification_summary).is_of(audit_summary["scores_digest"]),
        moved=kept_curvature.get("share", 0.0),
        gate=gate,
    )


def judge_audit(
    measured: dict[GateMetric, Measured],
    audit_summary: dict[str, Any],
    baseline: Baseline,
    audit_run: dict[str, Any] | None,
    gate: GateParameters,
) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """Return the verdict, the same as JUnit XML, and the metrics for MLflow."""
    summary = AuditSummary.model_validate(audit_summary)
    report = judge(
        measured,
        gate=gate,
        baseline=baseline,
        scores_digest=summary.scores_digest,
        method=summary.method,
        says_nothing=summary.says_nothing,
        environment=(audit_run or {}).get("environment", ""),
    )
    return report.model_dump(mode="json"), report.junit(), logged(report.metrics)


def collect_parameters(
    segments: SegmentParameters,
    gradients: GradientParameters,
    attribution: AttributionParameters,
    report: ReportParameters,
    gate: GateParameters,
) -> dict[str, Any]:
    """Return the parameters that another program is told; a task's arguments may be a secret."""
    return {
        "segments": segments.model_dump(mode="json"),
        "gradients": gradients.model_dump(mode="json"),
        "attribution": attribution.model_dump(mode="json"),
        "report": report.model_dump(mode="json"),
        "gate": gate.model_dump(mode="json"),
    }


def state_result(
    gate_report: dict[str, Any],
    audit_summary: dict[str, Any],
    review_list: pl.DataFrame,
    checkpoint_manifest: pl.DataFrame,
    data_digests: dict[str, dict[str, Any]],
    verification_summary: pl.DataFrame,
    comparison_summary: dict[str, Any],
    audit_parameters: dict[str, Any],
) -> dict[str, Any]:
    """Return the audit's result for other programs."""
    verdict = GateReport.model_validate(gate_report)
    kept = audit_summary.get("scores_kept", True)
    trust = Retraining(verification_summary).trust_in(verdict.scores_digest, kept=kept)
    suspects = review_list.filter(is_suspect())["example_id"]
    result = {
        "versions": {
            "sourcetrace": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in _LIBRARIES},
        },
        "task": audit_summary["task"],
        "method": verdict.method,
        "parameters": audit_parameters,
        "scores_digest": verdict.scores_digest,
        "data": {
            name: {"digest": one["digest"], "rows": one["rows"]}
            for name, one in data_digests.items()
        },
        "checkpoints": checkpoint_manifest.select("step", "sha256", id="checkpoint_id").to_dicts(),
        "counts": {name: audit_summary[name] for name in AuditCounts.model_fields},
        "actions": audit_summary["actions"],
        "metrics": verdict.metrics,
        "suspects": suspects.head(audit_parameters["gate"]["suspects"]).to_list(),
        "trust": {
            "status": trust.status,
            "text": trust.text,
            "lds": verdict.metrics.get("trust_lds"),
            "lds_low": verdict.metrics.get("trust_lds_low"),
        },
        "comparison": _compared(Comparison.from_json(comparison_summary)),
        "gate": verdict.outcome,
    }
    return AuditResult.model_validate(result).model_dump(mode="json")


def enforce_gate(gate_report: dict[str, Any], *written: object) -> dict[str, Any]:
    """Return the verdict, or end the run.

    `written` is there to be written before it.

    Raises:
        GateFailed: If the verdict is `fail`.
    """
    report = GateReport.model_validate(gate_report)
    if report.outcome == "fail":
        raise GateFailed(report)
    return gate_report


def _compared(found: Comparison) -> dict[str, Any] | None:
    """Return what changed since the audit before; None of a first audit."""
    if found.previous_at is None:
        return None
    drift = {**vars(found.suspects), **vars(found.data)}
    return {
        **{name: drift[name] for name in AuditDifference.model_fields if name in drift},
        "previous_at": found.previous_at,
        "previous_scores_digest": found.previous_scores_digest,
        "unchanged_examples": found.scores.examples,
        "score_rank_correlation": found.scores.rank_correlation,
        "training_data_same": found.data.training_same,
    }


# The page, the snapshot and the documents for reviewers, which other pipelines make of the verdict,
# are there before it is enforced.
PIPELINE = Pipeline(
    [
        step(read_baseline, "baseline"),
        step(measure, "measured"),
        step(judge_audit, ["gate_report", "gate_junit", "gate_metrics"]),
        step(collect_parameters, "audit_parameters"),
        step(state_result, "audit_result"),
        step(
            enforce_gate,
            "verdict",
            "gate_junit",
            "audit_result",
            "cleaning_report",
            "audit_snapshot",
            *DOCUMENTS,
        ),
    ]
)

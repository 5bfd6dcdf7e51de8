"""Judge what an audit wrote, write the verdict, and only then raise."""

import platform
from importlib.metadata import version
from typing import Any

import polars as pl

from sourcetrace import __version__
from sourcetrace.audit.comparison.summary import Comparison
from sourcetrace.audit.gate.audit_result import (
    AuditCounts,
    AuditDifference,
    AuditedCheckpoint,
    AuditedData,
    AuditResult,
    AuditTrust,
)
from sourcetrace.audit.gate.baseline import Baseline, parse_baseline
from sourcetrace.audit.gate.failure import GateFailed
from sourcetrace.audit.gate.judge import judge, outcome_of, summarise
from sourcetrace.audit.gate.junit import junit_xml
from sourcetrace.audit.gate.measured import measure_audit, measure_trust
from sourcetrace.audit.gate.measured_changes import measure_comparison
from sourcetrace.audit.gate.report import GateReport
from sourcetrace.audit.identity.code_revision import CodeRevision
from sourcetrace.datasets.audit_snapshots import AuditSnapshots
from sourcetrace.datasets.score_files import ScoreFiles
from sourcetrace.errors import InputError
from sourcetrace.integrations.ml_bom import make_ml_bom
from sourcetrace.parameters import (
    AttributionParameters,
    EnsembleParameters,
    GateParameters,
    GradientParameters,
    RegisteredModelParameters,
    ReportParameters,
    SegmentParameters,
    TaskParameters,
)
from sourcetrace.reporting.documents.facts import AuditFacts
from sourcetrace.reporting.documents.model_card import render_model_card
from sourcetrace.reporting.page import insert_gate, scores_of
from sourcetrace.reporting.trust import is_current, state_trust

_LIBRARIES = ("torch", "polars", "kedro", "mlflow")


def read_baseline(gate_baseline: Any, gate: GateParameters) -> Baseline:
    """Return the approved metrics.

    It depends on nothing, so that a wrong file ends the run at its start.
    """
    return parse_baseline(gate_baseline, path=gate.baseline)


def judge_audit(
    score_files: ScoreFiles,
    page: str,
    review_list: pl.DataFrame,
    train_table: pl.DataFrame,
    query_signals: pl.DataFrame,
    query_influence: pl.DataFrame,
    checkpoint_manifest: pl.DataFrame,
    verification_summary: pl.DataFrame,
    comparison_summary: dict[str, Any],
    baseline: Baseline,
    gate: GateParameters,
) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """Return the verdict, the same as JUnit XML, and the metrics for MLflow."""
    digest = score_files.digest()
    if scores_of(page) != digest:
        raise InputError(
            "The page and the review list were written for other scores than the ones that are "
            "there now. Run `kedro run --pipelines cleaning_report` first."
        )
    metrics = {
        **measure_audit(
            review_list,
            train_table,
            query_signals,
            checkpoint_manifest,
            slice_columns=gate.slice_columns,
            group_minimum=gate.group_minimum,
        ),
        **measure_trust(
            verification_summary, current=is_current(verification_summary, scores_digest=digest)
        ),
        **measure_comparison(Comparison.from_json(comparison_summary)),
    }
    results = judge(metrics, gate=gate, baseline=baseline)
    report = GateReport(
        sourcetrace_version=__version__,
        outcome=outcome_of(results),
        summary=summarise(results),
        scores_digest=digest,
        method=query_influence["method"][0],
        baseline=gate.baseline,
        checks=results,
        metrics={name: measured.finite for name, measured in metrics.items()},
    )
    logged: dict[str, Any] = {
        name: {"value": value, "step": 0}
        for name, value in report.metrics.items()
        if value is not None
    }
    return report.model_dump(mode="json"), junit_xml(report), logged


def state_result(
    gate_report: dict[str, Any],
    audit_summary: dict[str, Any],
    review_list: pl.DataFrame,
    checkpoint_manifest: pl.DataFrame,
    data_digests: dict[str, dict[str, Any]],
    verification_summary: pl.DataFrame,
    comparison_summary: dict[str, Any],
    task: TaskParameters,
    segments: SegmentParameters,
    gradients: GradientParameters,
    attribution: AttributionParameters,
    ensemble: EnsembleParameters,
    report: ReportParameters,
    gate: GateParameters,
) -> dict[str, Any]:
    """Return the audit's result for other programs."""
    verdict = GateReport.model_validate(gate_report)
    trust = state_trust(verification_summary, scores_digest=verdict.scores_digest)
    groups = {
        "segments": segments,
        "gradients": gradients,
        "attribution": attribution,
        "ensemble": ensemble,
        "report": report,
        "gate": gate,
    }
    suspects = review_list.filter(pl.col("suggested_action") != "keep").head(gate.suspects)
    counts = ("training_examples", "queries", "runs", "checkpoints", "segments")
    return AuditResult(
        versions={
            "sourcetrace": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in _LIBRARIES},
        },
        task=task.class_path,
        method=verdict.method,
        parameters={name: group.model_dump(mode="json") for name, group in groups.items()},
        scores_digest=verdict.scores_digest,
        data={
            name: AuditedData(digest=one["digest"], rows=one["rows"])
            for name, one in data_digests.items()
        },
        checkpoints=tuple(
            AuditedCheckpoint(id=name, step=step, sha256=sha256)
            for name, step, sha256 in checkpoint_manifest.select(
                "checkpoint_id", "step", "sha256"
            ).iter_rows()
        ),
        counts=AuditCounts(**{name: audit_summary[name] for name in counts}),
        actions=audit_summary["actions"],
        metrics=verdict.metrics,
        suspects=tuple(suspects["example_id"]),
        trust=AuditTrust(
            status=trust.status,
            text=trust.text,
            lds=verdict.metrics.get("trust_lds"),
            lds_low=verdict.metrics.get("trust_lds_low"),
        ),
        comparison=_compared(Comparison.from_json(comparison_summary)),
        gate=verdict.outcome,
    ).model_dump(mode="json")


def describe_audit(
    audit_result: dict[str, Any],
    gate_report: dict[str, Any],
    verification_summary: pl.DataFrame,
    code_revision: dict[str, Any],
    registered_model: dict[str, Any] | None,
) -> tuple[str, dict[str, Any]]:
    """Return the model card's section and the ML-BOM."""
    result = AuditResult.model_validate(audit_result)
    # It may be of other scores: then the result has no figure.
    interval = verification_summary.filter(measure="lds").drop_nans("high").drop_nulls("high")
    facts = AuditFacts(
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
    return render_model_card(facts), make_ml_bom(facts)


def extend_page(page: str, gate_report: dict[str, Any]) -> str:
    """Return the page with the verdict at its top."""
    return insert_gate(page, GateReport.model_validate(gate_report))


def enforce_gate(
    gate_report: dict[str, Any],
    gate_junit: str,
    audit_result: dict[str, Any],
    model_card: str,
    ml_bom: dict[str, Any],
    page: str,
    snapshot: AuditSnapshots,
) -> dict[str, Any]:
    """Return the verdict, or end the run.

    What it takes besides the verdict is there to be written before it.

    Raises:
        GateFailed: If the verdict is `fail`.
    """
    report = GateReport.model_validate(gate_report)
    if report.outcome == "fail":
        raise GateFailed(report)
    return gate_report


def _compared(found: Comparison) -> AuditDifference | None:
    """Return what changed since the audit before; None of a first audit."""
    if found.previous_at is None or found.previous_scores_digest is None:
        return None
    suspects, data = found.suspects, found.data
    return AuditDifference(
        previous_at=found.previous_at,
        previous_scores_digest=found.previous_scores_digest,
        matched_by=data.matched_by,
        new=suspects.new,
        persisting=suspects.persisting,
        resolved=suspects.resolved,
        resolved_by=suspects.resolved_by,
        unchanged_examples=found.scores.examples,
        score_rank_correlation=found.scores.rank_correlation,
        added=data.added,
        removed=data.removed,
        relabelled=data.relabelled,
        edited=data.edited,
        training_data_same=data.training_same,
        queries_same=data.queries_same,
    )

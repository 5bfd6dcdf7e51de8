"""Compare an audit with the one before it, and keep it for the next."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import polars as pl
from kedro.pipeline import Pipeline

from sourcetrace.audit.comparison.changes import compare_examples, count_reordered, kept_examples
from sourcetrace.audit.comparison.snapshot import AuditFigures, AuditSnapshot
from sourcetrace.audit.comparison.summary import (
    AuditPoint,
    Comparison,
    CurvatureDrift,
    DataDrift,
    ScoreDrift,
    SuspectDrift,
)
from sourcetrace.audit.gate.report import GateReport
from sourcetrace.audit.identity.data_digest import same_data
from sourcetrace.datasets.audit_snapshots import AuditSnapshots
from sourcetrace.datasets.score_files import ScoreFiles
from sourcetrace.parameters import ComparisonParameters, TaskParameters
from sourcetrace.pipelines.shared.metrics import logged
from sourcetrace.pipelines.shared.step import step
from sourcetrace.reporting.records import AuditSummary
from sourcetrace.schemas import AuditComparison, CurvatureSpectra

_BECAME = ("new", "persisting", "resolved", "dropped_out")
_EDITS = ("added", "removed", "relabelled", "edited")


def describe_this_audit(
    score_files: ScoreFiles,
    audit_summary: dict[str, Any],
    example_digests: pl.LazyFrame,
    review_list: pl.DataFrame,
    curvature_spectra: pl.DataFrame,
    data_digests: dict[str, dict[str, Any]],
    task: TaskParameters,
    registered_model: Mapping[str, Any] | None,
) -> AuditSnapshot:
    """Return the audit at hand, as it will be kept; its point says nothing of the verdict yet.

    Raises:
        InputError: If its tables are of other scores than those there are.
    """
    score_files.digest_in(audit_summary)
    examples = kept_examples(example_digests, review_list)
    summary = AuditSummary.model_validate(audit_summary)
    training, queries = (data_digests[side]["digest"] for side in ("training", "queries"))
    suspects = int(examples["suspect"].sum())
    content = "\0".join((summary.scores_digest, training, queries))
    return AuditSnapshot(
        figures=AuditFigures(
            identity=hashlib.sha256(content.encode()).hexdigest(),
            task=task.class_path,
            # The lineage hook has refused a wrong one.
            model=registered_model["name"] if registered_model else None,
            method=summary.method,
            scores_digest=summary.scores_digest,
            training_digest=training,
            query_digest=queries,
            point=AuditPoint("", "", examples.height, suspects / examples.height, None, None, None),
            spectra=tuple(curvature_spectra.to_dicts()),
        ),
        examples=examples,
    )


def compare_audits(
    this_audit: AuditSnapshot, audit_snapshots: AuditSnapshots, comparison: ComparisonParameters
) -> tuple[pl.DataFrame, dict[str, Any], dict[str, Any]]:
    """Return what became of every example, what that says, and metrics for MLflow."""
    figures, now = this_audit.figures, this_audit.examples
    earlier = figures.those_before(audit_snapshots.history(figures.series))
    first = Comparison(
        scores_digest=figures.scores_digest,
        method=figures.method,
        training_examples=now.height,
        suspects_now=int(now["suspect"].sum()),
    )
    if not earlier:
        return AuditComparison.frame(), first.to_json(), {}
    previous = earlier[-1]
    before = audit_snapshots.examples(previous)
    table = compare_examples(now, before)
    spectra = (CurvatureSpectra.frame(one.spectra) for one in (figures, previous))
    found = replace(
        first,
        previous_at=previous.point.at,
        previous_scores_digest=previous.scores_digest,
        previous_method=previous.method,
        suspects=_suspect_drift(table),
        scores=ScoreDrift.of(table, class_minimum=comparison.class_minimum),
        curvature=CurvatureDrift.of(*spectra),
        data=_data_drift(table, this_audit, before, previous),
        earlier=tuple(one.point for one in earlier),
    )
    return table, found.to_json(), _metrics(found)


def take_snapshot(
    this_audit: AuditSnapshot,
    comparison_summary: dict[str, Any],
    audit_comparison: pl.DataFrame,
    gate_report: dict[str, Any],
    comparison: ComparisonParameters,
    *written: object,
) -> AuditSnapshot:
    """Return what later audits are compared with.

    `written` is there to be written before it: an audit that was killed in between is none to
    compare with.
    """
    found, report = Comparison.from_json(comparison_summary), GateReport.model_validate(gate_report)
    examples = this_audit.examples.join(
        audit_comparison.filter(pl.col("rank").is_not_null()).select(
            "example_id", "audits_suspected"
        ),
        on="example_id",
        how="left",
        maintain_order="left",
    )
    # In a first audit, every suspect is one for the first time.
    suspected = pl.when("suspect").then(pl.col("audits_suspected").fill_null(1)).otherwise(0)
    return AuditSnapshot(
        replace(this_audit.figures, point=found.point(report.outcome, report.metrics)),
        examples.with_columns(audits_suspected=suspected.cast(pl.Int64)),
        comparison.keep,
    )


def _suspect_drift(table: pl.DataFrame) -> SuspectDrift:
    counts: dict[str, dict[str, int]] = {name: {} for name in _BECAME}
    kept = (pl.col("status") == "resolved") & (pl.col("change") == "unchanged")
    done = pl.when(kept).then(pl.lit("kept")).otherwise("change").alias("done")
    grouped = table.filter(pl.col("status").is_in(list(counts))).group_by("status", done).len()
    for status, done_to_it, count in grouped.sort("status", "done").iter_rows():
        counts[status][done_to_it] = count
    return SuspectDrift(
        **{status: sum(by_change.values()) for status, by_change in counts.items()},
        new_by=counts["new"],
        resolved_by=counts["resolved"],
    )


def _data_drift(
    table: pl.DataFrame, this_audit: AuditSnapshot, before: pl.DataFrame, previous: AuditFigures
) -> DataDrift:
    figures, now = this_audit.figures, this_audit.examples
    counts = dict(table["change"].value_counts().iter_rows())
    unknown = any(side["input_digest"].null_count() == side.height for side in (now, before))
    renamed = table.filter(
        pl.col("same_content"), pl.col("id_before") != pl.col("example_id")
    ).height
    return DataDrift(
        matched_by="id" if unknown else "content",
        training_same=same_data(figures.training_digest, previous.training_digest),
        queries_same=same_data(figures.query_digest, previous.query_digest),
        **{name: counts.get(name, 0) for name in _EDITS},
        renamed=renamed,
        reordered=count_reordered(now, before),
    )


def _metrics(found: Comparison) -> dict[str, Any]:
    layers = found.curvature.layers
    return logged(
        {
            **{f"{name}_suspects": getattr(found.suspects, name) for name in _BECAME},
            **{f"{name}_examples": getattr(found.data, name) for name in _EDITS},
            "score_rank_correlation": found.scores.rank_correlation,
            "curvature_distance": layers[0].distance if layers else None,
        }
    )


# The gate's nodes run between these, where both are in a pipeline.
PIPELINE = Pipeline(
    [
        # Not the whole group: kedro-mlflow logs what a node takes.
        step(
            describe_this_audit,
            "this_audit",
            registered_model="params:tracking.registered_model",
        ),
        step(compare_audits, ["audit_comparison", "comparison_summary", "comparison_metrics"]),
        step(take_snapshot, "audit_snapshot", "audit_result", "cleaning_report"),
    ]
)

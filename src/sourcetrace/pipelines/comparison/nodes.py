"""Compare an audit with the one before it, say so on the page, and keep it for the next."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from sourcetrace.audit.comparison.changes import compare_examples, count_reordered, kept_examples
from sourcetrace.audit.comparison.drift import curvature_drift, score_drift
from sourcetrace.audit.comparison.snapshot import (
    AuditFigures,
    AuditSnapshot,
    audit_identity,
    before_this,
)
from sourcetrace.audit.comparison.summary import AuditPoint, Comparison, DataDrift, SuspectDrift
from sourcetrace.audit.gate.report import GateReport
from sourcetrace.audit.identity.data_digest import same_data
from sourcetrace.datasets.audit_snapshots import AuditSnapshots
from sourcetrace.errors import InputError
from sourcetrace.parameters import ComparisonParameters, TaskParameters
from sourcetrace.reporting.page import insert_comparison, scores_of
from sourcetrace.schemas import AuditComparison, CurvatureSpectra


def compare_audits(
    page: str,
    audit_snapshots: AuditSnapshots,
    example_digests: pl.DataFrame,
    review_list: pl.DataFrame,
    curvature_spectra: pl.DataFrame,
    data_digests: dict[str, dict[str, Any]],
    audit_summary: dict[str, Any],
    task: TaskParameters,
    registered_model: dict[str, Any] | None,
    comparison: ComparisonParameters,
) -> tuple[pl.DataFrame, dict[str, Any], dict[str, Any]]:
    """Return what became of every example, what that says, and metrics for MLflow."""
    now = kept_examples(example_digests, review_list)
    if not now.height == review_list.height == example_digests.height:
        raise InputError(
            f"The review list has {review_list.height} examples, example_digests "
            f"{example_digests.height}, {now.height} with the same id and label are in both: they "
            "are of different audits. Run `kedro run --pipelines audit`."
        )
    digests = data_digests["training"]["digest"], data_digests["queries"]["digest"]
    scores_digest = scores_of(page)
    identity = audit_identity(
        scores_digest=scores_digest, training_digest=digests[0], query_digest=digests[1]
    )
    history = audit_snapshots.history(_series(task, registered_model))
    earlier = before_this(history, identity)
    first = Comparison(
        scores_digest=scores_digest,
        method=audit_summary["method"],
        training_examples=now.height,
        suspects_now=int(now["suspect"].sum()),
    )
    if not earlier:
        return _no_rows(), first.to_json(), {}
    previous = earlier[-1]
    before = audit_snapshots.examples(previous)
    table = compare_examples(now, before)
    found = Comparison(
        scores_digest=first.scores_digest,
        method=first.method,
        training_examples=first.training_examples,
        suspects_now=first.suspects_now,
        previous_at=previous.point.at,
        previous_scores_digest=previous.scores_digest,
        previous_method=previous.method,
        suspects=_suspect_drift(table),
        scores=score_drift(table, class_minimum=comparison.class_minimum),
        curvature=curvature_drift(curvature_spectra, _spectra(previous)),
        data=_data_drift(table, now, before, digests, previous),
        earlier=tuple(one.point for one in earlier),
    )
    return table, found.to_json(), _metrics(found)


def show_comparison(
    page: str,
    comparison_summary: dict[str, Any],
    audit_comparison: pl.DataFrame,
    review_list: pl.DataFrame,
    gate_report: dict[str, Any],
) -> str:
    """Return the page with what changed since the audit before, and the trends."""
    found = Comparison.from_json(comparison_summary)
    point = _point(found, GateReport.model_validate(gate_report))
    return insert_comparison(page, found, audit_comparison, review_list, now=point)


def take_snapshot(
    comparison_summary: dict[str, Any],
    audit_comparison: pl.DataFrame,
    example_digests: pl.DataFrame,
    review_list: pl.DataFrame,
    curvature_spectra: pl.DataFrame,
    data_digests: dict[str, dict[str, Any]],
    gate_report: dict[str, Any],
    audit_result: dict[str, Any],
    page: str,
    task: TaskParameters,
    registered_model: dict[str, Any] | None,
    comparison: ComparisonParameters,
) -> AuditSnapshot:
    """Return what later audits are compared with.

    What it does not use of its arguments is there to be written before it: an audit that was
    killed in between is none to compare with.
    """
    report = GateReport.model_validate(gate_report)
    digests = data_digests["training"]["digest"], data_digests["queries"]["digest"]
    name, model = _series(task, registered_model)
    examples = kept_examples(example_digests, review_list).join(
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
        figures=AuditFigures(
            identity=audit_identity(
                scores_digest=report.scores_digest,
                training_digest=digests[0],
                query_digest=digests[1],
            ),
            task=name,
            model=model,
            method=report.method,
            scores_digest=report.scores_digest,
            training_digest=digests[0],
            query_digest=digests[1],
            point=_point(Comparison.from_json(comparison_summary), report),
            spectra=tuple(curvature_spectra.to_dicts()),
        ),
        examples=examples.with_columns(audits_suspected=suspected.cast(pl.Int64)),
        keep=comparison.keep,
    )


def _series(
    task: TaskParameters, registered_model: Mapping[str, Any] | None
) -> tuple[str, str | None]:
    """Return what audits have in common that are compared: the task's class, the model's name."""
    # The lineage hook has refused a wrong one.
    return task.class_path, registered_model["name"] if registered_model else None


def _no_rows() -> pl.DataFrame:
    return pl.DataFrame(schema=_columns(AuditComparison))


def _spectra(figures: AuditFigures) -> pl.DataFrame:
    return pl.DataFrame(list(figures.spectra), schema=_columns(CurvatureSpectra))


def _columns(schema: Any) -> dict[str, Any]:
    columns = schema.to_schema().columns.items()
    return {name: column.dtype.type for name, column in columns}


def _suspect_drift(table: pl.DataFrame) -> SuspectDrift:
    counts = {
        (status, change): count
        for status, change, count in table.group_by("status", "change")
        .len()
        .sort("status", "change")
        .iter_rows()
    }

    def by_change(status: str) -> dict[str, int]:
        return {change: count for (one, change), count in counts.items() if one == status}

    return SuspectDrift(
        new=sum(by_change("new").values()),
        persisting=sum(by_change("persisting").values()),
        resolved=sum(by_change("resolved").values()),
        new_by=by_change("new"),
        resolved_by=by_change("resolved"),
    )


def _data_drift(
    table: pl.DataFrame,
    now: pl.DataFrame,
    before: pl.DataFrame,
    digests: tuple[str, str],
    previous: AuditFigures,
) -> DataDrift:
    counts = dict(table["change"].value_counts().iter_rows())
    unknown = any(side["input_digest"].null_count() == side.height for side in (now, before))
    renamed = table.filter(
        pl.col("same_content"), pl.col("id_before") != pl.col("example_id")
    ).height
    return DataDrift(
        matched_by="id" if unknown else "content",
        training_same=same_data(digests[0], previous.training_digest),
        queries_same=same_data(digests[1], previous.query_digest),
        **{name: counts.get(name, 0) for name in ("added", "removed", "relabelled", "edited")},
        renamed=renamed,
        reordered=count_reordered(now, before),
    )


def _point(found: Comparison, report: GateReport) -> AuditPoint:
    first = found.previous_at is None
    return AuditPoint(
        at="",
        outcome=report.outcome,
        training_examples=found.training_examples,
        suspect_share=found.suspects_now / found.training_examples,
        harmful_share=report.metrics.get("harmful_share"),
        mean_query_loss=report.metrics.get("mean_query_loss"),
        trust_lds=report.metrics.get("trust_lds"),
        new=None if first else found.suspects.new,
        persisting=None if first else found.suspects.persisting,
        resolved=None if first else found.suspects.resolved,
        rank_correlation=found.scores.rank_correlation,
    )


def _metrics(found: Comparison) -> dict[str, Any]:
    data, layers = found.data, found.curvature.layers
    values: dict[str, float | None] = {
        "new_suspects": found.suspects.new,
        "persisting_suspects": found.suspects.persisting,
        "resolved_suspects": found.suspects.resolved,
        "score_rank_correlation": found.scores.rank_correlation,
        "curvature_distance": layers[0].distance if layers else None,
        "added_examples": data.added,
        "removed_examples": data.removed,
        "relabelled_examples": data.relabelled,
        "edited_examples": data.edited,
    }
    return {
        name: {"value": float(value), "step": 0}
        for name, value in values.items()
        if value is not None
    }

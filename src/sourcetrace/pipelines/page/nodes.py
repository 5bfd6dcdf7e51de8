"""Gather what the page is made of, and render it."""

from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import polars as pl
from kedro.pipeline import Pipeline
from pydantic import BaseModel

from sourcetrace.audit.comparison.summary import Comparison
from sourcetrace.audit.gate.report import GateReport
from sourcetrace.parameters import RegisteredModelParameters
from sourcetrace.pipelines.shared.step import step
from sourcetrace.reporting.changes import ComparedAudit
from sourcetrace.reporting.cleaning import MeasuredCleaning
from sourcetrace.reporting.decided import DecisionSummary
from sourcetrace.reporting.page import PageContent
from sourcetrace.reporting.queries.pages import QuerySection
from sourcetrace.reporting.queries.view import Measurement, QueryView
from sourcetrace.reporting.records import AuditRun, AuditSummary, GroundTruth
from sourcetrace.reporting.trust import Retraining

_Model = TypeVar("_Model", bound=BaseModel)

_QUERIES = 200
"""More are not shown, however little there is to say of each."""


def gather_verdict(
    gate_report: dict[str, Any] | None,
    comparison_summary: dict[str, Any] | None,
    audit_comparison: pl.DataFrame,
    decision_log: pl.DataFrame,
) -> dict[str, Any]:
    """Return fields of `PageContent`: the verdict, what changed since, all decisions.

    What changed is there if the verdict is of the same scores.
    """
    gate, compared = _read(GateReport, gate_report), None
    if comparison_summary is not None and gate is not None:
        found = Comparison.from_json(comparison_summary)
        if found.scores_digest == gate.scores_digest:
            suspected = audit_comparison.filter(pl.col("status") != "unsuspected")
            compared = ComparedAudit(found, suspected, found.point(gate.outcome, gate.metrics))
    return {"gate": gate, "comparison": compared, "decision_log": decision_log}


def gather_tables(
    audit_summary: dict[str, Any],
    review_list: pl.DataFrame,
    checkpoint_manifest: pl.DataFrame,
    unattributed_parameters: pl.DataFrame,
    segment_contributions: pl.DataFrame,
    example_signals: pl.LazyFrame,
    curvature_spectra: pl.DataFrame,
    suspect_pictures: pl.DataFrame,
    data_digests: dict[str, dict[str, Any]],
    suspect_groups: pl.DataFrame,
    group_suspects: pl.DataFrame,
    example_issues: pl.DataFrame,
    page_verdict: dict[str, Any],
) -> PageContent:
    """Return what the page takes from the audit itself.

    These are large tables: they are gathered behind the verdict, not held while it is found.
    """
    return PageContent(
        summary=AuditSummary.model_validate(audit_summary),
        review_list=review_list,
        checkpoint_manifest=checkpoint_manifest,
        unattributed_parameters=unattributed_parameters,
        segment_contributions=segment_contributions,
        example_signals=example_signals,
        curvature_spectra=curvature_spectra,
        pictures=_pictures(suspect_pictures),
        data_digests={side: one["digest"] for side, one in data_digests.items()},
        suspect_groups=suspect_groups,
        group_suspects=group_suspects,
        example_issues=example_issues,
        **page_verdict,
    )


def gather_queries(
    audit_summary: dict[str, Any],
    measurement: dict[str, Any],
    query_strongest: pl.DataFrame,
    query_shares: pl.DataFrame,
    query_signals: pl.DataFrame,
    query_table: pl.DataFrame,
    train_table: pl.DataFrame,
    strongest_pictures: pl.DataFrame,
    query_pictures: pl.DataFrame,
) -> QuerySection:
    """Return what the page takes of single queries, the worst measured first."""
    view = QueryView(
        audit_summary["method"],
        audit_summary["training_examples"],
        Measurement.model_validate(measurement),
        query_strongest,
        query_shares,
        query_signals,
        query_table,
        train_table,
    )
    return QuerySection(
        lambda: view.explained(view.worst(_QUERIES)),
        query_table.height,
        _pictures(strongest_pictures),
        _pictures(query_pictures),
    )


def render_page(
    page_content: PageContent,
    verification_summary: pl.DataFrame,
    verification_queries: pl.DataFrame,
    verification_removals: pl.DataFrame,
    ground_truth: dict[str, Any] | None,
    audit_run: dict[str, Any] | None,
    registered_model: dict[str, Any] | None,
    query_section: QuerySection | None,
    decision_summary: dict[str, Any] | None = None,
    cleaning_result: dict[str, Any] | None = None,
) -> str:
    """Return the self-contained HTML page, with the records that there are of these scores."""
    return replace(
        page_content,
        queries=query_section,
        verification=Retraining(verification_summary, verification_queries, verification_removals),
        ground_truth=_read(GroundTruth, ground_truth),
        run=_read(AuditRun, audit_run),
        model=_read(RegisteredModelParameters, registered_model),
        decided=None if decision_summary is None else DecisionSummary.from_json(decision_summary),
        cleaning=None if cleaning_result is None else MeasuredCleaning.from_json(cleaning_result),
    ).render()


def _read(kind: type[_Model], record: dict[str, Any] | None) -> _Model | None:
    return kind.model_validate(record) if record else None


def _pictures(table: pl.DataFrame) -> dict[str, "np.ndarray[Any, Any]"]:
    pictures = {}
    for row in table.iter_rows(named=True):
        channels = [row["channels"]] if row["channels"] > 1 else []
        shape = [row["height"], row["width"], *channels]
        pictures[row["example_id"]] = np.asarray(row["pixels"], dtype=np.float32).reshape(shape)
    return pictures


# Every part of an audit that changes the page ends with it.
PIPELINE = Pipeline(
    [
        step(gather_verdict, "page_verdict"),
        step(gather_tables, "page_content"),
        step(gather_queries, "query_section"),
        # Not the whole group: kedro-mlflow logs what a node takes.
        step(render_page, "cleaning_report", registered_model="params:tracking.registered_model"),
    ]
)

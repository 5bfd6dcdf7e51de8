"""The review list and what an audit found, from tables; no torch, no page."""

from typing import Any

import numpy as np
import polars as pl
import polars.selectors as cs
from kedro.pipeline import Pipeline

from sourcetrace.audit.decisions.content import content_digests
from sourcetrace.audit.decisions.standing import standing_decisions
from sourcetrace.audit.suggestions.members import average_signals
from sourcetrace.datasets.score_files import ScoreFiles
from sourcetrace.parameters import ReportParameters, TaskParameters
from sourcetrace.pipelines.shared.metrics import logged
from sourcetrace.pipelines.shared.step import step
from sourcetrace.reporting.decided import mark_decided
from sourcetrace.reporting.records import AuditSummary, Suspect
from sourcetrace.reporting.review import build_review_list, spreadsheet_text
from sourcetrace.reporting.trust import Retraining
from sourcetrace.schemas.review import ACTIONS, is_suspect, open_action, rounded_labels
from sourcetrace.schemas.table import beside, first_of

_SUSPECTS_NAMED = 5


def list_for_review(
    train_table: pl.DataFrame,
    checkpoint_manifest: pl.DataFrame,
    example_signals: pl.LazyFrame,
    query_signals: pl.DataFrame,
    query_influence: pl.LazyFrame,
    self_influence: pl.LazyFrame,
    suspicions: pl.LazyFrame,
    data_digests: dict[str, dict[str, Any]],
    example_digests: pl.LazyFrame,
    decision_log: pl.DataFrame,
    report: ReportParameters,
) -> tuple[pl.DataFrame, pl.LazyFrame]:
    """Return the review list, twice: for programs, and for spreadsheets that it is filled in by."""
    finals = checkpoint_manifest.group_by("run", maintain_order=True).last()["checkpoint_id"]
    at_end = pl.col("checkpoint_id").is_in(finals.implode())
    set_aside = [one["index"] for one in data_digests["training"].get("set_aside", ())]
    index = np.delete(np.arange(train_table.height + len(set_aside)), set_aside)
    review_list = build_review_list(
        train_table=train_table.with_columns(index=pl.Series(index)),
        final_signals=average_signals(example_signals.lazy().filter(at_end).collect()),
        query_influence=query_influence,
        self_influence=self_influence,
        suspicions=suspicions,
        queries=query_signals.height,
        report=report,
    )
    review_list = beside(review_list, content_digests(example_digests))
    review_list = mark_decided(review_list, standing_decisions(review_list, decision_log))
    # Vectors and structures are for machines.
    own = train_table.select(~cs.nested() & ~cs.binary() & ~cs.by_name("label"))
    to_fill_in = review_list.with_columns(new_label=pl.lit(None, pl.String)).join(
        own, on="example_id", how="left", maintain_order="left", suffix="_of_table"
    )
    return to_fill_in.drop("new_label"), to_fill_in.lazy().with_columns(
        spreadsheet_text(pl.col(pl.String))
    )


def summarise_audit(
    score_files: ScoreFiles,
    query_influence: pl.LazyFrame,
    verification_summary: pl.DataFrame,
    review_list: pl.DataFrame,
    suspicions: pl.LazyFrame,
    checkpoint_manifest: pl.DataFrame,
    query_signals: pl.DataFrame,
    segment_contributions: pl.DataFrame,
    set_aside: list[dict[str, Any]],
    kept_curvature: dict[str, Any],
    task: TaskParameters,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a person reads at the end of the run, and the metrics for MLflow."""
    digest = score_files.digest()
    counted = dict(review_list.select(open_action())["action"].value_counts().iter_rows())
    suspects = review_list.filter(is_suspect())
    effect = (pl.col("harm") != 0) | (pl.col("total_query_loss_influence") != 0)
    summary = AuditSummary(
        scores_digest=digest,
        task=task.class_path,
        method=first_of(query_influence, "method"),
        trust=Retraining(verification_summary).trust_in(digest, kept=score_files.are_kept),
        scores_kept=score_files.are_kept,
        training_examples=review_list.height,
        queries=query_signals.height,
        runs=checkpoint_manifest["run"].n_unique(),
        checkpoints=checkpoint_manifest.height,
        segments=checkpoint_manifest["segment"].n_unique(),
        attributed_share=checkpoint_manifest["attributed_share"][-1],
        exploratory=first_of(suspicions, "exploratory"),
        mean_query_loss=query_signals.select(pl.col("loss").mean()).item(),
        without_effect=review_list.filter(~effect).height,
        set_aside=len(set_aside),
        kept_curvature=kept_curvature.get("text", ""),
        unstable=suspects.filter(~pl.col("sign_stable")).height,
        actions={name: counted.get(name, 0) for name in ACTIONS},
        suspects=tuple(
            Suspect(**row)
            for row in rounded_labels(review_list)
            .filter(is_suspect())
            .head(_SUSPECTS_NAMED)
            .select(list(Suspect.model_fields))
            .iter_rows(named=True)
        ),
    )
    metrics: dict[str, Any] = {
        "suspect_share": suspects.height / review_list.height,
        "relabel_suggestions": summary.actions["relabel"],
        "unstable_share": summary.unstable / max(1, suspects.height),
        "attributed_share": summary.attributed_share,
        "set_aside": len(set_aside),
        "training_runs": summary.runs,
        "mean_query_loss": summary.mean_query_loss,
        "curvature_moved_share": kept_curvature.get("share"),
        "curvature_moved_gradient_share": kept_curvature.get("gradient_share"),
    }
    shares = segment_contributions.group_by("segment", maintain_order=True).agg(
        pl.col("mean_absolute_score").sum()
    )
    total = shares["mean_absolute_score"].sum()
    for segment, value in shares.iter_rows():
        metrics[f"segment_{segment}_share"] = value / total if total else 0.0
    return summary.model_dump(mode="json"), logged(metrics)


PIPELINE = Pipeline(
    [
        step(list_for_review, ["review_list", "review_list_csv"]),
        step(summarise_audit, ["audit_summary", "audit_metrics"]),
    ]
)

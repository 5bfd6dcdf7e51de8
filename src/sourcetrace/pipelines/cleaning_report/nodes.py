"""The review list, the page and the summary, from tables."""

from dataclasses import asdict
from typing import Any

import numpy as np
import polars as pl

from sourcetrace.datasets.score_files import ScoreFiles
from sourcetrace.errors import InputError
from sourcetrace.parameters import ReportParameters, TaskParameters
from sourcetrace.pipelines.shared.signals import average_signals
from sourcetrace.reporting.review import build_review_list, stage_text

_SUSPECTS_NAMED = 5


def list_for_review(
    train_table: pl.DataFrame,
    checkpoint_manifest: pl.DataFrame,
    example_signals: pl.DataFrame,
    query_signals: pl.DataFrame,
    query_influence: pl.DataFrame,
    self_influence: pl.DataFrame,
    report: ReportParameters,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the review list, twice: for programs and for spreadsheets."""
    for name, table in (("query_influence", query_influence), ("self_influence", self_influence)):
        if table.height != train_table.height:
            raise InputError(
                f"{name} has {table.height} rows for {train_table.height} training examples: "
                "an earlier run stopped in the middle. Run source_scoring again."
            )
    finals = checkpoint_manifest.group_by("run", maintain_order=True).last()["checkpoint_id"]
    final_signals = example_signals.filter(pl.col("checkpoint_id").is_in(finals.implode()))
    review_list = build_review_list(
        train_table=train_table,
        final_signals=average_signals(final_signals, by=["example_id"]),
        query_influence=query_influence,
        self_influence=self_influence,
        queries=query_signals.height,
        report=report,
    )
    return review_list, review_list.with_columns(_harmless_text(pl.col(pl.String)))


def _harmless_text(text: pl.Expr) -> pl.Expr:
    """Put a quote before text that a spreadsheet would run as a formula."""
    return text.str.replace(r"^([=+\-@\t\r])", "'${1}")


def state_trust(
    score_files: ScoreFiles, query_influence: pl.DataFrame, verification_summary: pl.DataFrame
) -> dict[str, str]:
    """Return the trust line of the scores that are there, and what they are."""
    from sourcetrace.reporting import trust

    digest = score_files.digest()
    return {
        "scores_digest": digest,
        "method": query_influence["method"][0],
        **asdict(trust.state_trust(verification_summary, scores_digest=digest)),
    }


def write_page(
    task: TaskParameters,
    review_list: pl.DataFrame,
    train_table: pl.DataFrame,
    checkpoint_manifest: pl.DataFrame,
    unattributed_parameters: pl.DataFrame,
    segment_contributions: pl.DataFrame,
    example_signals: pl.DataFrame,
    query_signals: pl.DataFrame,
    suspect_pictures: pl.DataFrame,
    trust: dict[str, str],
    verification_summary: pl.DataFrame,
    verification_queries: pl.DataFrame,
    verification_removals: pl.DataFrame,
) -> str:
    """Return the self-contained HTML page."""
    from sourcetrace.reporting.page import PageContent, render_page
    from sourcetrace.reporting.trust import Verification

    details = train_table.drop("label").with_columns(stage_text())
    if checkpoint_manifest["stage"].n_unique() == 1:
        details = details.drop("stage")
    return render_page(
        PageContent(
            task_name=task.class_path,
            # Of the scores that are there, whatever the parameters say by now.
            method=trust["method"],
            review_list=review_list,
            checkpoint_manifest=checkpoint_manifest,
            unattributed_parameters=unattributed_parameters,
            segment_contributions=segment_contributions,
            example_signals=example_signals,
            query_signals=query_signals,
            pictures=_pictures(suspect_pictures),
            details=details if details.width > 1 else None,
            scores_digest=trust["scores_digest"],
            verification=Verification(
                summary=verification_summary,
                queries=verification_queries,
                removals=verification_removals,
            ),
        )
    )


def summarise_audit(
    trust: dict[str, str],
    review_list: pl.DataFrame,
    checkpoint_manifest: pl.DataFrame,
    query_signals: pl.DataFrame,
    segment_contributions: pl.DataFrame,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a person reads at the end of the run, and the metrics for MLflow."""
    from sourcetrace.reporting.findings import unstable_suspects

    actions = dict(review_list["suggested_action"].value_counts().iter_rows())
    suspects = review_list.filter(pl.col("suggested_action") != "keep")
    unstable = unstable_suspects(review_list).height
    summary = {
        "method": trust["method"],
        "trust": {name: trust[name] for name in ("status", "text", "command")},
        "training_examples": review_list.height,
        "queries": query_signals.height,
        "runs": checkpoint_manifest["run"].n_unique(),
        "checkpoints": checkpoint_manifest.height,
        "segments": checkpoint_manifest["segment"].n_unique(),
        "attributed_share": checkpoint_manifest["attributed_share"][-1],
        "unstable": unstable,
        "actions": {name: actions.get(name, 0) for name in ("relabel", "check", "keep")},
        "suspects": suspects.head(_SUSPECTS_NAMED)
        .select("rank", "example_id", "given_label", "predicted_label", "reason")
        .to_dicts(),
    }
    metrics = {
        "suspect_share": suspects.height / review_list.height,
        "relabel_suggestions": actions.get("relabel", 0),
        "unstable_share": unstable / max(1, suspects.height),
        "attributed_share": summary["attributed_share"],
        "training_runs": summary["runs"],
        "mean_query_loss": query_signals["loss"].mean(),
    }
    shares = segment_contributions.group_by("segment", maintain_order=True).agg(
        pl.col("mean_absolute_score").sum()
    )
    total = shares["mean_absolute_score"].sum()
    for segment, value in shares.iter_rows():
        metrics[f"segment_{segment}_share"] = value / total if total else 0.0
    return summary, {name: {"value": float(v), "step": 0} for name, v in metrics.items()}


def _pictures(table: pl.DataFrame) -> dict[str, "np.ndarray[Any, Any]"]:
    pictures = {}
    for row in table.iter_rows(named=True):
        channels = [row["channels"]] if row["channels"] > 1 else []
        shape = [row["height"], row["width"], *channels]
        pictures[row["example_id"]] = np.asarray(row["pixels"], dtype=np.float32).reshape(shape)
    return pictures

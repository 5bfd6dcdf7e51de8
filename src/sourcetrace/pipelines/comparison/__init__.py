"""Compared before the gate judges, kept for the next audit after verdict and page are written."""

from kedro.pipeline import Pipeline

from sourcetrace.pipelines.comparison.nodes import (
    compare_audits,
    describe_this_audit,
    take_snapshot,
)
from sourcetrace.pipelines.shared.step import step


def create_pipeline() -> Pipeline:
    """Return the stage; the gate's nodes run between its own, where both are in a pipeline."""
    return Pipeline(
        [
            step(
                describe_this_audit,
                "this_audit",
                task="params:task",
                # Not the whole group: kedro-mlflow logs what a node takes.
                registered_model="params:tracking.registered_model",
            ),
            step(
                compare_audits,
                ["audit_comparison", "comparison_summary", "comparison_metrics"],
                comparison="params:comparison",
            ),
            step(
                take_snapshot,
                "audit_snapshot",
                "audit_result",
                "cleaning_report",
                comparison="params:comparison",
            ),
        ]
    )

"""Compared before the gate judges, kept after its verdict and the page are written."""

from kedro.pipeline import Pipeline, node

from sourcetrace.pipelines.comparison.nodes import (
    compare_audits,
    describe_this_audit,
    take_snapshot,
)


def create_pipeline() -> Pipeline:
    """Return the stage; the gate's nodes run between its own, where both are in a pipeline."""
    return Pipeline(
        [
            node(
                describe_this_audit,
                # In this order: the first says what to run where there has been no audit.
                inputs=[
                    "score_files",
                    "audit_summary",
                    "example_digests",
                    "review_list",
                    "curvature_spectra",
                    "data_digests",
                    "params:task",
                    # Not the whole group: kedro-mlflow logs what a node takes.
                    "params:tracking.registered_model",
                ],
                outputs="this_audit",
                name="describe_this_audit",
            ),
            node(
                compare_audits,
                inputs=["this_audit", "audit_snapshots", "params:comparison"],
                outputs=["audit_comparison", "comparison_summary", "comparison_metrics"],
                name="compare_audits",
            ),
            node(
                take_snapshot,
                inputs=[
                    "this_audit",
                    "comparison_summary",
                    "audit_comparison",
                    "gate_report",
                    "params:comparison",
                    "audit_result",
                    "cleaning_report",
                ],
                outputs="audit_snapshot",
                name="take_snapshot",
            ),
        ]
    )

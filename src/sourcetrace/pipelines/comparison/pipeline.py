"""Compared before the gate judges, shown and kept with its verdict."""

from kedro.pipeline import Pipeline, node

from sourcetrace.pipelines.comparison.nodes import compare_audits, show_comparison, take_snapshot


def create_pipeline(*, page: str = "cleaning_report") -> Pipeline:
    """Return the stage; the gate's nodes run between its own, where both are in a pipeline.

    Args:
        page: The entry under which the page was written last in the same run.
    """
    return Pipeline(
        [
            node(
                compare_audits,
                inputs={
                    "page": page,
                    "audit_snapshots": "audit_snapshots",
                    "example_digests": "example_digests",
                    "review_list": "review_list",
                    "curvature_spectra": "curvature_spectra",
                    "data_digests": "data_digests",
                    "audit_summary": "audit_summary",
                    "task": "params:task",
                    # Not the whole group: kedro-mlflow logs what a node takes.
                    "registered_model": "params:tracking.registered_model",
                    "comparison": "params:comparison",
                },
                outputs=["audit_comparison", "comparison_summary", "comparison_metrics"],
                name="compare_audits",
            ),
            node(
                show_comparison,
                inputs={
                    "page": page,
                    "comparison_summary": "comparison_summary",
                    "audit_comparison": "audit_comparison",
                    "review_list": "review_list",
                    "gate_report": "gate_report",
                },
                outputs="compared_cleaning_report",
                name="extend_page_with_comparison",
            ),
            node(
                take_snapshot,
                inputs={
                    "comparison_summary": "comparison_summary",
                    "audit_comparison": "audit_comparison",
                    "example_digests": "example_digests",
                    "review_list": "review_list",
                    "curvature_spectra": "curvature_spectra",
                    "data_digests": "data_digests",
                    "gate_report": "gate_report",
                    "audit_result": "audit_result",
                    "page": "judged_cleaning_report",
                    "task": "params:task",
                    # Not the whole group: kedro-mlflow logs what a node takes.
                    "registered_model": "params:tracking.registered_model",
                    "comparison": "params:comparison",
                },
                outputs="audit_snapshot",
                name="take_snapshot",
            ),
        ]
    )

"""Outside the audit: the only place where its list meets the planted truth."""

from kedro.pipeline import Pipeline, node

from sourcetrace.pipelines.demo_evaluation.nodes import compare_with_planted


def create_pipeline() -> Pipeline:
    """Return the demo's answer key; the page shows what it writes."""
    return Pipeline(
        [
            node(
                compare_with_planted,
                inputs=["audit_summary", "review_list", "planted_label_errors"],
                outputs=["ground_truth", "demo_metrics"],
                name="compare_with_planted",
            )
        ]
    )

"""Outside the audit: the only place where its list meets the planted truth."""

from kedro.pipeline import Pipeline, node

from sourcetrace.pipelines.demo_evaluation.nodes import compare_with_planted, extend_page


def create_pipeline() -> Pipeline:
    """Return the demo's answer key."""
    return Pipeline(
        [
            node(
                compare_with_planted,
                inputs=["review_list", "planted_label_errors"],
                outputs=["demo_rankings", "demo_recall_curve", "demo_metrics"],
                name="compare_with_planted",
            ),
            node(
                extend_page,
                inputs=[
                    "cleaning_report",
                    "demo_rankings",
                    "demo_recall_curve",
                    "planted_label_errors",
                ],
                outputs="demo_cleaning_report",
                name="extend_page",
            ),
        ]
    )

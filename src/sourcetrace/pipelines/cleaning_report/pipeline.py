"""Tables in, the review list and a summary out; no torch. The page comes last, in its own."""

from kedro.pipeline import Pipeline, node

from sourcetrace.pipelines.cleaning_report.nodes import list_for_review, summarise_audit


def create_pipeline() -> Pipeline:
    """Return the stage."""
    return Pipeline(
        [
            node(
                list_for_review,
                inputs=[
                    "train_table",
                    "checkpoint_manifest",
                    "example_signals",
                    "query_signals",
                    "query_influence",
                    "self_influence",
                    "params:report",
                ],
                outputs=["review_list", "review_list_csv"],
                name="list_for_review",
            ),
            node(
                summarise_audit,
                inputs=[
                    "score_files",
                    "query_influence",
                    "verification_summary",
                    "review_list",
                    "checkpoint_manifest",
                    "query_signals",
                    "segment_contributions",
                    "params:task",
                    "params:report",
                ],
                outputs=["audit_summary", "audit_metrics"],
                name="summarise_audit",
            ),
        ]
    )

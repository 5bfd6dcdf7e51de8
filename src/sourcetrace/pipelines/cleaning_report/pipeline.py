"""Tables in, a list and a page out; no torch."""

from kedro.pipeline import Pipeline, node

from sourcetrace.pipelines.cleaning_report.nodes import (
    list_for_review,
    summarise_audit,
    write_page,
)


def create_pipeline() -> Pipeline:
    """Return the stage."""
    return Pipeline(
        [
            node(
                list_for_review,
                inputs={
                    "train_table": "train_table",
                    "checkpoint_manifest": "checkpoint_manifest",
                    "example_signals": "example_signals",
                    "query_signals": "query_signals",
                    "query_influence": "query_influence",
                    "self_influence": "self_influence",
                    "report": "params:report",
                },
                outputs=["review_list", "review_list_csv"],
                name="list_for_review",
            ),
            node(
                write_page,
                inputs={
                    "task": "params:task",
                    "query_influence": "query_influence",
                    "review_list": "review_list",
                    "train_table": "train_table",
                    "checkpoint_manifest": "checkpoint_manifest",
                    "unattributed_parameters": "unattributed_parameters",
                    "segment_contributions": "segment_contributions",
                    "example_signals": "example_signals",
                    "query_signals": "query_signals",
                    "suspect_pictures": "suspect_pictures",
                },
                outputs="cleaning_report",
                name="write_page",
            ),
            node(
                summarise_audit,
                inputs={
                    "query_influence": "query_influence",
                    "review_list": "review_list",
                    "checkpoint_manifest": "checkpoint_manifest",
                    "query_signals": "query_signals",
                    "segment_contributions": "segment_contributions",
                },
                outputs=["audit_summary", "audit_metrics"],
                name="summarise_audit",
            ),
        ]
    )

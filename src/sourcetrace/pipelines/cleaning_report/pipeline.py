"""Tables in, a list and a page out; no torch."""

from kedro.pipeline import Pipeline, node

from sourcetrace.pipelines.cleaning_report.nodes import (
    list_for_review,
    state_trust,
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
                state_trust,
                inputs={
                    "score_files": "score_files",
                    "query_influence": "query_influence",
                    "verification_summary": "verification_summary",
                },
                outputs="trust",
                name="state_trust",
            ),
            node(
                write_page,
                inputs={
                    "task": "params:task",
                    "review_list": "review_list",
                    "train_table": "train_table",
                    "checkpoint_manifest": "checkpoint_manifest",
                    "unattributed_parameters": "unattributed_parameters",
                    "segment_contributions": "segment_contributions",
                    "example_signals": "example_signals",
                    "query_signals": "query_signals",
                    "suspect_pictures": "suspect_pictures",
                    "trust": "trust",
                    "verification_summary": "verification_summary",
                    "verification_queries": "verification_queries",
                    "verification_removals": "verification_removals",
                },
                outputs="cleaning_report",
                name="write_page",
            ),
            node(
                summarise_audit,
                inputs={
                    "trust": "trust",
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

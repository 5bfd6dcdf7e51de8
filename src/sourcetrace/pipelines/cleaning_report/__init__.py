"""Tables in, the review list and a summary out; no torch. The page comes last, in its own."""

from kedro.pipeline import Pipeline

from sourcetrace.pipelines.cleaning_report.nodes import list_for_review, summarise_audit
from sourcetrace.pipelines.shared.step import step


def create_pipeline() -> Pipeline:
    """Return the stage."""
    return Pipeline(
        [
            step(list_for_review, ["review_list", "review_list_csv"], report="params:report"),
            step(
                summarise_audit,
                ["audit_summary", "audit_metrics"],
                task="params:task",
                report="params:report",
            ),
        ]
    )

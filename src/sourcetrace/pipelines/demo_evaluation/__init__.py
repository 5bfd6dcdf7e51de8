"""Outside the audit: the only place where its list meets the planted truth."""

from kedro.pipeline import Pipeline

from sourcetrace.pipelines.demo_evaluation.nodes import compare_with_planted
from sourcetrace.pipelines.shared.step import step


def create_pipeline() -> Pipeline:
    """Return the demo's answer key; the page shows what it writes."""
    return Pipeline([step(compare_with_planted, ["ground_truth", "demo_metrics"])])

"""Plan the retrainings, do them in parallel, and measure; the page shows it."""

from kedro.pipeline import Pipeline

from sourcetrace.pipelines.shared.inputs import check_inputs
from sourcetrace.pipelines.shared.step import step
from sourcetrace.pipelines.verification.nodes import measure_trust, plan_retrainings, retrain_groups


def create_pipeline() -> Pipeline:
    """Return the pipeline; it runs on what an audit left."""
    return Pipeline(
        [
            step(check_inputs, "ingested"),
            step(plan_retrainings, "verification_plan", verification="params:verification"),
            step(
                retrain_groups,
                "verification_outcomes",
                task_parameters="params:task",
                gradients="params:gradients",
                verification="params:verification",
            ),
            step(
                measure_trust,
                [
                    "verification_summary",
                    "verification_queries",
                    "verification_removals",
                    "verification_metrics",
                ],
            ),
        ]
    )

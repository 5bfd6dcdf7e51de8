"""Plan the retrainings, do them in parallel, and measure; the page shows it."""

from kedro.pipeline import Pipeline, node

from sourcetrace.pipelines.shared.inputs import check_inputs_node
from sourcetrace.pipelines.verification.nodes import (
    measure_trust,
    plan_retrainings,
    retrain_groups,
)


def create_pipeline() -> Pipeline:
    """Return the pipeline; it runs on what an audit left."""
    return Pipeline(
        [
            check_inputs_node(),
            node(
                plan_retrainings,
                inputs={
                    "score_files": "score_files",
                    "task": "task",
                    "train_table": "train_table",
                    "query_table": "query_table",
                    "query_signals": "query_signals",
                    "audit_summary": "audit_summary",
                    "verification": "params:verification",
                },
                outputs="verification_plan",
                name="plan_retrainings",
            ),
            node(
                retrain_groups,
                inputs={
                    "ingested": "ingested",
                    "task_parameters": "params:task",
                    "verification_plan": "verification_plan",
                    "retrained_outcomes": "retrained_outcomes",
                    "gradients": "params:gradients",
                    "verification": "params:verification",
                    "gradient_cache": "gradient_cache",
                },
                outputs="verification_outcomes",
                name="retrain_groups",
            ),
            node(
                measure_trust,
                inputs={
                    "score_files": "score_files",
                    "verification_plan": "verification_plan",
                    "verification_outcomes": "verification_outcomes",
                    "train_table": "train_table",
                    "query_table": "query_table",
                    "query_signals": "query_signals",
                    "query_influence": "query_influence",
                },
                outputs=[
                    "verification_summary",
                    "verification_queries",
                    "verification_removals",
                    "verification_metrics",
                ],
                name="measure_trust",
            ),
        ]
    )

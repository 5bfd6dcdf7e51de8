"""Verdict and result; at the very end the node that raises."""

from kedro.pipeline import Pipeline, node

from sourcetrace.pipelines.gate.nodes import (
    collect_parameters,
    enforce_gate,
    judge_audit,
    measure,
    read_baseline,
    state_result,
)
from sourcetrace.pipelines.governance import documents


def create_pipeline() -> Pipeline:
    """Return the stage; it runs on what an audit left.

    The page, the snapshot and the documents for reviewers, which other pipelines make of the
    verdict, are there before it is enforced.
    """
    return Pipeline(
        [
            node(
                read_baseline,
                inputs=["gate_baseline", "params:gate"],
                outputs="baseline",
                name="read_baseline",
            ),
            node(
                measure,
                inputs=[
                    "audit_summary",
                    "review_list",
                    "train_table",
                    "query_signals",
                    "checkpoint_manifest",
                    "verification_summary",
                    "comparison_summary",
                    "params:gate",
                ],
                outputs="measured",
                name="measure",
            ),
            node(
                judge_audit,
                inputs=["measured", "audit_summary", "baseline", "params:gate"],
                outputs=["gate_report", "gate_junit", "gate_metrics"],
                name="judge_audit",
            ),
            node(
                collect_parameters,
                inputs=[
                    "params:segments",
                    "params:gradients",
                    "params:attribution",
                    "params:ensemble",
                    "params:report",
                    "params:gate",
                ],
                outputs="audit_parameters",
                name="collect_parameters",
            ),
            node(
                state_result,
                inputs=[
                    "gate_report",
                    "audit_summary",
                    "review_list",
                    "checkpoint_manifest",
                    "data_digests",
                    "verification_summary",
                    "comparison_summary",
                    "audit_parameters",
                ],
                outputs="audit_result",
                name="state_result",
            ),
            node(
                enforce_gate,
                inputs=[
                    "gate_report",
                    "gate_junit",
                    "audit_result",
                    "cleaning_report",
                    "audit_snapshot",
                    *documents(),
                ],
                outputs="verdict",
                name="enforce_gate",
            ),
        ]
    )

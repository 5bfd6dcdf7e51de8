"""Verdict, result, documents and banner; at the very end the node that raises."""

from kedro.pipeline import Pipeline, node

from sourcetrace.pipelines.gate.nodes import (
    describe_audit,
    enforce_gate,
    extend_page,
    judge_audit,
    read_baseline,
    state_result,
)


def create_pipeline(*, page: str = "cleaning_report") -> Pipeline:
    """Return the stage; it runs on what an audit left.

    Args:
        page: The entry under which the page was written last before the comparison with the
            audit before: everything here comes after it, and the verdict goes on top.
    """
    return Pipeline(
        [
            node(
                read_baseline,
                inputs={"gate_baseline": "gate_baseline", "gate": "params:gate"},
                outputs="baseline",
                name="read_baseline",
            ),
            node(
                judge_audit,
                inputs={
                    "score_files": "score_files",
                    "page": page,
                    "review_list": "review_list",
                    "train_table": "train_table",
                    "query_signals": "query_signals",
                    "query_influence": "query_influence",
                    "checkpoint_manifest": "checkpoint_manifest",
                    "verification_summary": "verification_summary",
                    "comparison_summary": "comparison_summary",
                    "baseline": "baseline",
                    "gate": "params:gate",
                },
                outputs=["gate_report", "gate_junit", "gate_metrics"],
                name="judge_audit",
            ),
            node(
                state_result,
                inputs={
                    "gate_report": "gate_report",
                    "audit_summary": "audit_summary",
                    "review_list": "review_list",
                    "checkpoint_manifest": "checkpoint_manifest",
                    "data_digests": "data_digests",
                    "verification_summary": "verification_summary",
                    "comparison_summary": "comparison_summary",
                    "task": "params:task",
                    "segments": "params:segments",
                    "gradients": "params:gradients",
                    "attribution": "params:attribution",
                    "ensemble": "params:ensemble",
                    "report": "params:report",
                    "gate": "params:gate",
                },
                outputs="audit_result",
                name="state_result",
            ),
            node(
                describe_audit,
                inputs={
                    "audit_result": "audit_result",
                    "gate_report": "gate_report",
                    "verification_summary": "verification_summary",
                    "code_revision": "code_revision",
                    # Not the whole group: kedro-mlflow logs what a node takes.
                    "registered_model": "params:tracking.registered_model",
                },
                outputs=["model_card", "ml_bom"],
                name="describe_audit",
            ),
            node(
                extend_page,
                inputs={"page": "compared_cleaning_report", "gate_report": "gate_report"},
                outputs="judged_cleaning_report",
                name="extend_page_with_gate",
            ),
            node(
                enforce_gate,
                inputs={
                    "gate_report": "gate_report",
                    "gate_junit": "gate_junit",
                    "audit_result": "audit_result",
                    "model_card": "model_card",
                    "ml_bom": "ml_bom",
                    "page": "judged_cleaning_report",
                    "snapshot": "audit_snapshot",
                },
                outputs="verdict",
                name="enforce_gate",
            ),
        ]
    )

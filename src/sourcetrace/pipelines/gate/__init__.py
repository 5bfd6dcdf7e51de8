"""Hold the audit against the limits that are set; the last node raises where it fails."""

from kedro.pipeline import Pipeline

from sourcetrace.pipelines.gate.nodes import (
    collect_parameters,
    enforce_gate,
    judge_audit,
    measure,
    read_baseline,
    state_result,
)
from sourcetrace.pipelines.governance import documents
from sourcetrace.pipelines.shared.step import step


def create_pipeline() -> Pipeline:
    """Return the stage; it runs on what an audit left.

    The page, the snapshot and the documents for reviewers, which other pipelines make of the
    verdict, are there before it is enforced.
    """
    gate = "params:gate"
    return Pipeline(
        [
            step(read_baseline, "baseline", gate=gate),
            step(measure, "measured", gate=gate),
            step(judge_audit, ["gate_report", "gate_junit", "gate_metrics"], gate=gate),
            step(
                collect_parameters,
                "audit_parameters",
                segments="params:segments",
                gradients="params:gradients",
                attribution="params:attribution",
                ensemble="params:ensemble",
                report="params:report",
                gate=gate,
            ),
            step(state_result, "audit_result"),
            step(
                enforce_gate,
                "verdict",
                "gate_junit",
                "audit_result",
                "cleaning_report",
                "audit_snapshot",
                *documents(),
            ),
        ]
    )

"""Small tables and verdicts for the gate's tests."""

import polars as pl

from sourcetrace.audit.gate.audit_result import (
    AuditCounts,
    AuditDifference,
    AuditedCheckpoint,
    AuditedData,
    AuditResult,
    AuditTrust,
)
from sourcetrace.audit.gate.baseline import Baseline
from sourcetrace.audit.gate.judge import judge
from sourcetrace.audit.gate.measured import Measured
from sourcetrace.parameters import GateCheck, GateParameters


def review_list(harm, *, labels=None, stable=None, actions=None, decisions=None):
    """Return the columns of a review list that the gate reads."""
    count = len(harm)
    return pl.DataFrame(
        {
            "example_id": [f"e{i}" for i in range(count)],
            "given_label": labels or ["a"] * count,
            "given_label_probability": [0.5] * count,
            "harm": harm,
            "sign_stable": stable or [True] * count,
            "suggested_action": actions or ["keep"] * count,
            "decision": decisions or [None] * count,
        },
        schema_overrides={"harm": pl.Float64, "decision": pl.String},
    )


def summary(*, lds=0.5, low=0.4, share=0.6):
    """Return a verification's summary."""
    return pl.DataFrame(
        {"measure": ["lds", "lds_of_ceiling"], "value": [lds, share], "low": [low, None]},
        schema_overrides={"value": pl.Float64, "low": pl.Float64},
    )


def verdict(*checks, baseline=None, required=False, **values):
    """Return the report of checks on metrics given by name."""
    path = baseline.path if baseline else None
    gate = GateParameters(
        checks=tuple(GateCheck(**check) for check in checks),
        require_verification=required,
        baseline=path,
    )
    metrics = {
        name: Measured(value, "" if value else "no reason") for name, value in values.items()
    }
    return judge(
        metrics, gate=gate, baseline=baseline or Baseline(), scores_digest="d", method="source"
    )


def approved(**metrics):
    """Return a baseline of these metrics."""
    return Baseline("approved.json", metrics)


def one_of_each():
    """Return a report with a check of every status."""
    return verdict(
        {"metric": "harmful_share", "at_most": 0.1, "severity": "fail"},
        {"metric": "trust_lds", "at_least": 0.5, "severity": "inconclusive"},
        {"metric": "class_concentration", "at_most": 2.0, "severity": "warn"},
        {"metric": "mean_query_loss", "at_most": 1.0},
        {"metric": "slice_concentration", "at_most": 1.0},
        harmful_share=0.2,
        trust_lds=0.1,
        class_concentration=3.0,
        mean_query_loss=0.5,
        slice_concentration=None,
    )


def audit_result(**changes):
    """Return the result of a small audit."""
    report = one_of_each()
    values = {
        "versions": {"sourcetrace": "0"},
        "task": "a.Task",
        "method": "source",
        "parameters": {"gate": {"baseline": None}},
        "scores_digest": "d",
        "data": {"training": AuditedData(digest="st1-0", rows=1)},
        "checkpoints": (AuditedCheckpoint(id="c", step=1, sha256="s"),),
        "counts": AuditCounts(training_examples=1, queries=1, runs=1, checkpoints=1, segments=1),
        "actions": {"remove": 0, "relabel": 0, "review": 0, "keep": 1},
        "metrics": report.metrics,
        "suspects": ("e0",),
        "trust": AuditTrust(status="Verified", text="t", lds=0.1, lds_low=None),
        "comparison": AuditDifference(
            previous_at="2026-11-25T02:00:09+00:00",
            previous_scores_digest="d",
            matched_by="content",
            new=1,
            persisting=2,
            resolved=3,
            resolved_by={"relabelled": 3},
            dropped_out=1,
            unchanged_examples=4,
            score_rank_correlation=None,
            added=0,
            removed=0,
            relabelled=3,
            edited=0,
            training_data_same=False,
            queries_same=None,
        ),
        "gate": report.outcome,
    }
    return AuditResult(**{**values, **changes})

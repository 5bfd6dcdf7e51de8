"""Small tables and verdicts for the gate's tests."""

import polars as pl

from sourcetrace.gate.baseline import Baseline
from sourcetrace.gate.judge import judge, outcome_of, summarise
from sourcetrace.gate.measured import Measured
from sourcetrace.gate.report import GateReport
from sourcetrace.parameters import GateCheck, GateParameters


def review_list(harm, *, labels=None, stable=None, actions=None):
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
        },
        schema_overrides={"harm": pl.Float64},
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
    results = judge(metrics, gate=gate, baseline=baseline or Baseline())
    return GateReport(
        sourcetrace_version="0",
        outcome=outcome_of(results),
        summary=summarise(results),
        scores_digest="d",
        method="source",
        baseline=path,
        checks=results,
        metrics={name: measured.finite for name, measured in metrics.items()},
    )


def approved(**metrics):
    """Return a baseline of these metrics."""
    return Baseline("approved.json", metrics)

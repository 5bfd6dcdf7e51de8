"""Visit every training example at every evaluation point once, and the queries at the last."""

from typing import Any

import polars as pl
from kedro.pipeline import Pipeline

from sourcetrace.audit.suggestions.members import average_signals
from sourcetrace.core.machine.memory import start_peak
from sourcetrace.core.methods.precision_check import PrecisionError
from sourcetrace.parameters import GradientParameters
from sourcetrace.pipelines.gradient_extraction.work import extract, units_of, visits_all
from sourcetrace.pipelines.set_up.audit_setup import AuditSetup
from sourcetrace.pipelines.set_up.costs import advise_on_threads, log_kept
from sourcetrace.pipelines.set_up.nodes import SET_UP, planned_cost
from sourcetrace.pipelines.shared.accounting import report_cost, report_precision, report_work
from sourcetrace.pipelines.shared.step import step
from sourcetrace.schemas.scores import QueryHistory, QuerySignals


def extract_gradients(
    audit_setup: AuditSetup, gradients: GradientParameters
) -> tuple[pl.LazyFrame, pl.DataFrame, pl.DataFrame, pl.LazyFrame, dict[str, Any]]:
    """Run one forward and two backward passes an example and checkpoint, where they are not done.

    Returns:
        example_signals, query_signals, query_history, content_sketches, and the metrics: what the
        run will cost and what this stage did.
    """
    setup, engine = audit_setup, audit_setup.engine
    metrics = {}
    setup.team.ledger.refresh()
    missing = setup.team.ledger.missing(units_of(setup))
    if visits_all(setup):
        metrics = _said_before(setup, gradients)
    start_peak(engine.device)
    with engine.timings.timed("gradient_extraction"):
        found = extract(setup)
    if missing and engine.precision != "float32":
        error = PrecisionError.of_passes(engine, setup.plan.points[-1])
        metrics |= report_precision("examples' gradients", "passes", engine.precision, error)
    history = found.queries.collect()
    finals = ["+".join(member.final.checkpoints) for member in setup.plan.members]
    return (
        found.signals,
        average_signals(history.filter(pl.col("checkpoint_id").is_in(finals))).select(
            list(QuerySignals.columns())
        ),
        history.select(list(QueryHistory.columns())),
        found.sketches,
        metrics | report_work(engine, "gradient_extraction"),
    )


def list_set_aside(audit_setup: AuditSetup, *written: Any) -> list[dict[str, Any]]:
    """Return the examples that were set aside, of both sides."""
    del written  # so that it runs behind the extraction
    return audit_setup.set_aside.listed()


def _said_before(setup: AuditSetup, gradients: GradientParameters) -> dict[str, Any]:
    """Say what the audit will take."""
    engine, plan = setup.engine, setup.plan
    cost = planned_cost(setup, gradients)
    log_kept(engine, plan, cost)
    metrics = report_cost(engine, cost.run)
    advise_on_threads(engine, plan.points[-1])
    return metrics


PIPELINE = Pipeline(
    [
        *SET_UP,
        step(
            extract_gradients,
            [
                "example_signals",
                "query_signals",
                "query_history",
                "content_sketches",
                "extraction_metrics",
            ],
        ),
        step(list_set_aside, "set_aside", "example_signals"),
    ]
)

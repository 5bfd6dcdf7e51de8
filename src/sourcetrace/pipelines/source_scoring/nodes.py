"""Score the training examples; the tables' parts are handed on as they are kept."""

from collections.abc import Iterator
from typing import Any

import polars as pl
from kedro.pipeline import Pipeline

from sourcetrace.audit.suggestions.suspicion import weigh_evidence
from sourcetrace.pipelines.set_up.audit_setup import AuditSetup
from sourcetrace.pipelines.set_up.nodes import SET_UP
from sourcetrace.pipelines.shared.accounting import report_work
from sourcetrace.pipelines.shared.step import step
from sourcetrace.pipelines.source_scoring.pictures import draw_queries, draw_suspects
from sourcetrace.pipelines.source_scoring.queries import describe_queries
from sourcetrace.pipelines.source_scoring.tables import TABLES
from sourcetrace.pipelines.source_scoring.work import score
from sourcetrace.reporting.queries.view import Measurement
from sourcetrace.work.unit import KeptFile


def score_examples(
    audit_setup: AuditSetup, curvature: object
) -> Iterator[tuple[KeptFile | dict[str, Any], ...]]:
    """Score the training examples.

    Yields:
        A range's part of each of `TABLES`; with the first, the metrics.
    """
    del curvature  # so that it runs behind it; its units have the same
    scored = score(audit_setup)
    metrics = scored.preparation.report() | report_work(audit_setup.engine, "source_scoring")
    for parts in scored.parts:
        yield (*parts, metrics)
        metrics = {}


def describe_measurement(
    audit_setup: AuditSetup, query_contributions: pl.DataFrame
) -> dict[str, Any]:
    """Return what is said of the queries' measurement where no task is loaded."""
    del query_contributions  # so that it runs behind the scores, and not where they are refused
    task = audit_setup.inputs.task
    higher = task.measurement_higher_is_better
    return Measurement(
        name=getattr(task, "measurement_name", "measurement" if higher else "loss"),
        higher_is_better=higher,
        by_token=hasattr(task, "tokens_of"),
    ).model_dump(mode="json")


PIPELINE = Pipeline(
    [
        *SET_UP,
        step(score_examples, [*TABLES, "solve_metrics"], confirms=list(TABLES)),
        step(describe_queries, ["query_strongest", "query_shares", "query_helpers"]),
        step(weigh_evidence, "suspicions"),
        step(draw_suspects, "suspect_pictures"),
        step(draw_queries, ["strongest_pictures", "query_pictures"]),
        step(describe_measurement, "measurement"),
    ]
)

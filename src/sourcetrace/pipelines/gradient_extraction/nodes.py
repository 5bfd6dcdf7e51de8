"""Visit every training example at every evaluation point once, and the queries at the last."""

import logging
from typing import TYPE_CHECKING, Any

import polars as pl

from sourcetrace.datasets.checkpoints import CheckpointFolder
from sourcetrace.datasets.gradient_cache import GradientCache, Policy
from sourcetrace.datasets.stage_result import StageResult
from sourcetrace.parameters import (
    AttributionParameters,
    EnsembleParameters,
    GradientParameters,
)
from sourcetrace.pipelines.signals import average_signals
from sourcetrace.reporting.progress import track

if TYPE_CHECKING:
    from sourcetrace.core.gradient_source import BlockSignals
    from sourcetrace.pipelines.audit_setup import AuditSetup
    from sourcetrace.tasks import Task
else:  # Kedro reads annotations; torch is imported when the node runs.
    BlockSignals = AuditSetup = Task = Any

logger = logging.getLogger(__name__)

_GIB = 2**30


def extract_gradients(
    task: Task,
    checkpoints: CheckpointFolder,
    checkpoint_manifest: pl.DataFrame,
    train_table: pl.DataFrame,
    query_table: pl.DataFrame,
    gradient_cache: GradientCache,
    gradients: GradientParameters,
    attribution: AttributionParameters,
    ensemble: EnsembleParameters,
) -> tuple[pl.DataFrame, pl.DataFrame, StageResult[dict[str, Any]]]:
    """Run one forward and two backward passes an example and checkpoint.

    Returns:
        example_signals, query_signals, and the covariance sums by point and layer.
    """
    from sourcetrace.core.attribution import visits
    from sourcetrace.core.covariance import merge
    from sourcetrace.pipelines.audit_setup import set_up_audit

    setup = set_up_audit(
        task=task,
        checkpoints=checkpoints,
        checkpoint_manifest=checkpoint_manifest,
        train_table=train_table,
        query_table=query_table,
        gradient_cache=gradient_cache,
        gradients=gradients,
        attribution=attribution,
        ensemble=ensemble,
    )
    source, plan = setup.source, setup.plan
    gradient_cache.restart(_choose_policy(setup, gradients))
    tables: list[pl.DataFrame] = []
    covariances: dict[str, Any] = {}
    for point, block in track(visits(source, plan.points), "Extracting gradients"):
        extraction = source.extract(point, block)
        _refuse_infinite(extraction.signals, train_table, f"at {point.id}")
        tables.append(
            _signal_rows(extraction.signals, train_table).with_columns(
                checkpoint_id=pl.lit("+".join(point.checkpoints))
            )
        )
        covariances[point.id] = merge(covariances.get(point.id), extraction.covariances)
    columns = [
        "example_id",
        "checkpoint_id",
        "loss",
        "measurement",
        "predicted_label",
        "given_label_probability",
        "gradient_norm",
    ]
    query_visits = [
        (member.final, block)
        for member in plan.members
        for block in setup.queries.blocks(source.batch_size)
    ]
    query_rows = []
    for point, block in track(query_visits, "Measuring queries"):
        signals, *_ = source.query_gradients(setup.queries, point, block)
        _refuse_infinite(signals, query_table, "as a query")
        query_rows.append(_signal_rows(signals, query_table))
    query_columns = [name for name in columns if name not in ("checkpoint_id", "gradient_norm")]
    examples = pl.concat(tables)
    if ensemble.dropout_masks:
        examples = average_signals(examples, by=["checkpoint_id", "example_id"])
    return (
        examples.select(columns),
        average_signals(pl.concat(query_rows), by=["example_id"]).select(query_columns),
        StageResult(setup.identity, covariances),
    )


def _choose_policy(setup: AuditSetup, gradients: GradientParameters) -> Policy:
    """Choose where gradients are kept, and say what the run will cost."""
    from sourcetrace.core.examples import Block
    from sourcetrace.core.gradient_source import bytes_per_example

    source, plan = setup.source, setup.plan
    probe = source.extract(plan.points[-1], Block(0, 1))
    visits = sum(len(point.examples) for point in plan.points)
    size = visits * bytes_per_example(source.coverage, probe.gradients) / _GIB
    if gradients.cache != "auto":
        policy: Policy = gradients.cache
    elif size <= gradients.memory_budget_gib:
        policy = "memory"
    else:
        policy = "disk" if size <= gradients.disk_budget_gib else "recompute"
    logger.info(
        "%d examples × %d points: %d forward and %d backward passes of an example; "
        "their gradients take %.2f GiB (%s)",
        len(source.training),
        len(plan.points),
        visits,
        2 * visits,
        size,
        {"memory": "kept in memory", "disk": "kept on disk"}.get(
            policy, "computed again by each later stage"
        ),
    )
    return policy


def _refuse_infinite(signals: BlockSignals, table: pl.DataFrame, where: str) -> None:
    """Refuse an example whose loss, measurement or gradient is not finite, by its name."""
    from sourcetrace.core.errors import InputError

    values = (signals.loss, signals.measurement, signals.gradient_norm)
    infinite = ~(values[0].isfinite() & values[1].isfinite() & values[2].isfinite()).cpu()
    if bool(infinite.any()):
        name = table["example_id"][int(signals.examples[infinite][0])]
        raise InputError(
            f"Example {name!r} has a NaN or infinite loss, measurement or gradient {where}. "
            "Check its inputs and label for missing values, and the loss for log(0)."
        )


def _signal_rows(signals: BlockSignals, table: pl.DataFrame) -> pl.DataFrame:
    index = signals.examples.tolist()
    described = signals.described
    nothing = [None] * len(index)
    return pl.DataFrame(
        {
            "example_id": table["example_id"][index],
            "loss": signals.loss.double().tolist(),
            "measurement": signals.measurement.double().tolist(),
            "predicted_label": described.get("predicted_label", nothing),
            "given_label_probability": described.get("given_label_probability", nothing),
            "gradient_norm": signals.gradient_norm.double().tolist(),
        },
        schema_overrides={
            "predicted_label": pl.String,
            "given_label_probability": pl.Float64,
        },
    )

"""Visit every training example at every evaluation point once, and the queries at the last."""

import logging
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import polars as pl
from kedro.pipeline import Pipeline

from sourcetrace.core.curvature.covariance import CovarianceSums, RunningCovariances
from sourcetrace.core.engine.gradient_engine import GradientEngine
from sourcetrace.core.engine.results import BlockSignals
from sourcetrace.core.layers.layer import Layer
from sourcetrace.core.machine.memory import start_peak
from sourcetrace.core.methods.memory_needs import Groups
from sourcetrace.core.methods.precision_check import PrecisionError
from sourcetrace.core.model.examples import Block, EvaluationPoint, Examples
from sourcetrace.core.model.precision import products_in
from sourcetrace.errors import InputError
from sourcetrace.parameters import GradientParameters
from sourcetrace.pipelines.shared.accounting import report_cost, report_precision, report_work
from sourcetrace.pipelines.shared.costs import advise_on_threads, log_kept, plan_costs
from sourcetrace.pipelines.shared.set_up import SET_UP, AuditSetup
from sourcetrace.pipelines.shared.signals import average_signals
from sourcetrace.pipelines.shared.step import step
from sourcetrace.progress import track
from sourcetrace.schemas.scores import (
    ContentSketches,
    ExampleSignals,
    QueryHistory,
    QuerySignals,
)

logger = logging.getLogger(__name__)

_GIB = 2**30


def extract_gradients(
    audit_setup: AuditSetup, gradients: GradientParameters
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame, pl.DataFrame, dict[str, Any], dict[str, Any]]:
    """Run one forward and two backward passes an example and checkpoint.

    Returns:
        example_signals, query_signals, query_history, content_sketches, the covariance sums by
        point and layer, and the metrics: what the run will cost and what this stage did.
    """
    setup = audit_setup
    engine, plan = setup.engine, setup.plan
    cost = plan_costs(setup, gradients)
    log_kept(setup, cost)
    metrics = report_cost(engine, cost.run)
    advise_on_threads(engine, plan.points[-1])
    curvature_precision = setup.attribution.precision.curvature
    if engine.precision != "float32":
        error = PrecisionError.of_passes(engine, plan.points[-1])
        metrics |= report_precision("examples' gradients", "passes", engine.precision, error)
    setup.cache.restart(cost.policy)
    # Here, where an audit begins anew: one that is refused later leaves the size of the one before.
    if gradients.batch_size == "auto":
        setup.cache.keep_batch_size(engine.batch_size)
    start_peak(engine.device)
    tables: list[pl.DataFrame] = []
    sketches = [ContentSketches.frame()]
    # One set of weights, for sketches at different ones do not compare.
    last = plan.members[-1].final
    needs = setup.needs.extraction
    covariances = {point.id: setup.layers_of(CovarianceSums, needs) for point in plan.points}
    query_rows = []
    query_visits = [
        (point, block) for point in plan.points for block in setup.queries.blocks(engine.batch_size)
    ]
    with engine.timings.timed("gradient_extraction"):
        visits = track(_visits(engine, plan.points, needs.groups), "Extracting gradients")
        for (name, group), own in groupby(visits, key=lambda visit: (visit[0].id, visit[1])):
            running = RunningCovariances()
            for point, _, block in own:
                if group is needs.groups[0]:
                    extraction = engine.extract(point, block, sketched=point.id == last.id)
                    sketches += _sketch_rows(extraction.signals, engine.training, "training")
                    rows = _signal_rows(extraction.signals, engine.training, f"at {point.id}")
                    checkpoint = pl.lit("+".join(point.checkpoints))
                    tables.append(rows.with_columns(checkpoint_id=checkpoint))
                    found = extraction.covariances
                else:
                    found = engine.of_layers(group).covariances(point, block)
                with products_in(curvature_precision, engine.device):
                    running.add({layer.name: found[layer.name] for layer in group})
            with products_in(curvature_precision, engine.device):
                covariances[name].update(running.sums())
            del running  # the next group's sums take its place
        for point, block in track(query_visits, "Measuring queries"):
            sketched = point.id == last.id
            signals = engine.query_signals(setup.queries, point, block, sketched=sketched)
            sketches += _sketch_rows(signals, setup.queries, "query")
            rows = _signal_rows(signals, setup.queries, "as a query")
            query_rows.append(rows.with_columns(checkpoint_id=pl.lit("+".join(point.checkpoints))))
    history = pl.concat(query_rows)
    finals = ["+".join(member.final.checkpoints) for member in plan.members]
    return (
        pl.concat(tables).select(list(ExampleSignals.columns())),
        average_signals(history.filter(pl.col("checkpoint_id").is_in(finals))).select(
            list(QuerySignals.columns())
        ),
        history.select(list(QueryHistory.columns())),
        pl.concat(sketches),
        covariances,
        metrics | report_work(engine, "gradient_extraction"),
    )


def _visits(
    engine: GradientEngine, points: Sequence[EvaluationPoint], groups: Groups
) -> list[tuple[EvaluationPoint, tuple[Layer, ...], Block]]:
    """Return every visit, of all groups of layers at a point before the next point.

    The first group's gives signals and gradients of all layers; others where they add something.
    """
    return [
        (point, group, block)
        for point in points
        for group in groups
        for _, block in engine.visits([point])
        if group is groups[0] or bool(point.in_curvature(point.rows(block)).any())
    ]


def _sketch_rows(signals: BlockSignals, examples: Examples, side: str) -> list[pl.DataFrame]:
    if signals.sketch is None:
        return []
    # Halved, batches of any size give the same numbers but for the last of their bits.
    values = signals.sketch.half().float().cpu().numpy()
    names = [examples.ids[i] for i in signals.examples.tolist()]
    columns = {"side": [side] * len(names), "example_id": names, "sketch": values}
    return [pl.DataFrame(columns, schema=ContentSketches.columns())]


def _signal_rows(signals: BlockSignals, examples: Examples, where: str) -> pl.DataFrame:
    """Return a row an example, unless a loss, measurement or gradient is not finite."""
    index = signals.examples.tolist()
    nothing = [None] * len(index)
    norm = signals.gradient_norm
    table = pl.DataFrame(
        {
            "example_id": [examples.ids[i] for i in index],
            "loss": signals.loss.double().tolist(),
            "measurement": signals.measurement.double().tolist(),
            "predicted_label": signals.described.get("predicted_label", nothing),
            "given_label_probability": signals.described.get("given_label_probability", nothing),
            "gradient_norm": nothing if norm is None else norm.double().tolist(),
        },
        schema_overrides={
            "predicted_label": pl.String,
            "given_label_probability": pl.Float64,
            "gradient_norm": pl.Float64,
        },
    )
    finite = pl.col("loss", "measurement", "gradient_norm").is_finite()
    infinite = table.with_columns(index=pl.Series(index)).filter(
        ~pl.all_horizontal(finite.fill_null(value=True))
    )
    if infinite.height:
        raise InputError(
            f"Example {infinite['example_id'][0]!r} (index {infinite['index'][0]}) has a NaN or "
            f"infinite loss, measurement or gradient {where}. Check its inputs and label "
            "for missing values, and the loss for log(0)."
        )
    return table


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
                "covariances",
                "extraction_metrics",
            ],
        ),
    ]
)

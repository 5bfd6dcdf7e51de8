"""Visit every training example at every evaluation point once, and the queries at the last."""

import logging
from typing import Any

import polars as pl
from kedro.pipeline import Pipeline

from sourcetrace.core.curvature.covariance import RunningCovariances
from sourcetrace.core.engine.passes import BlockSignals
from sourcetrace.core.engine.samples import TimedProbe
from sourcetrace.core.machine.memory import start_peak
from sourcetrace.core.machine.timing import matmul_rate
from sourcetrace.core.methods.astra import SolveSettings
from sourcetrace.core.methods.cost import RunCost
from sourcetrace.core.methods.precision_check import PrecisionError
from sourcetrace.core.model.examples import Examples
from sourcetrace.core.model.precision import products_in
from sourcetrace.core.plan.methods import METHODS
from sourcetrace.datasets.gradient_cache import Policy
from sourcetrace.errors import InputError
from sourcetrace.formats import format_bytes, format_noun
from sourcetrace.parameters import GradientParameters
from sourcetrace.pipelines.shared.accounting import report_cost, report_precision, report_work
from sourcetrace.pipelines.shared.set_up import SET_UP, AuditSetup
from sourcetrace.pipelines.shared.signals import average_signals
from sourcetrace.pipelines.shared.step import step
from sourcetrace.progress import track
from sourcetrace.schemas.scores import ExampleSignals, QuerySignals

logger = logging.getLogger(__name__)

_GIB = 2**30


def extract_gradients(
    audit_setup: AuditSetup, gradients: GradientParameters
) -> tuple[pl.DataFrame, pl.DataFrame, dict[str, Any], dict[str, Any]]:
    """Run one forward and two backward passes an example and checkpoint.

    Returns:
        example_signals, query_signals, the covariance sums by point and layer, and the metrics:
        what the run will cost and what this stage did.
    """
    setup = audit_setup
    engine, plan = setup.engine, setup.plan
    policy, cost = _plan_costs(setup, gradients)
    metrics = report_cost(cost)
    curvature_precision = setup.attribution.precision.curvature
    if engine.precision != "float32":
        error = PrecisionError.of_passes(engine, plan.points[-1])
        metrics |= report_precision("examples' gradients", "passes", engine.precision, error)
    setup.cache.restart(policy)
    # Here, where an audit begins anew: one that is refused later leaves the size of the one before.
    if gradients.batch_size == "auto":
        setup.cache.keep_batch_size(engine.batch_size)
    start_peak(engine.device)
    tables: list[pl.DataFrame] = []
    running = {point.id: RunningCovariances() for point in plan.points}
    query_rows = []
    query_visits = [
        (member.final, block)
        for member in plan.members
        for block in setup.queries.blocks(engine.batch_size)
    ]
    with engine.timings.timed("gradient_extraction"):
        for point, block in track(engine.visits(plan.points), "Extracting gradients"):
            extraction = engine.extract(point, block)
            rows = _signal_rows(extraction.signals, engine.training, f"at {point.id}")
            tables.append(rows.with_columns(checkpoint_id=pl.lit("+".join(point.checkpoints))))
            with products_in(curvature_precision, engine.device):
                running[point.id].add(extraction.covariances)
        with products_in(curvature_precision, engine.device):
            covariances = {name: one.sums() for name, one in running.items()}
        for point, block in track(query_visits, "Measuring queries"):
            signals = engine.query_signals(setup.queries, point, block)
            query_rows.append(_signal_rows(signals, setup.queries, "as a query"))
    return (
        average_signals(pl.concat(tables), by=["checkpoint_id", "example_id"]).select(
            list(ExampleSignals.columns())
        ),
        average_signals(pl.concat(query_rows), by=["example_id"]).select(
            list(QuerySignals.columns())
        ),
        covariances,
        metrics | report_work(engine, "gradient_extraction"),
    )


def _plan_costs(setup: AuditSetup, gradients: GradientParameters) -> tuple[Policy, RunCost]:
    """Choose where gradients are kept, say so, and return what the run will cost."""
    engine, plan, attribution = setup.engine, setup.plan, setup.attribution
    probe = TimedProbe.of(engine, plan.points[-1])
    visits = sum(len(point.examples) for point in plan.points)
    size = visits * probe.extraction.bytes_per_example
    if gradients.cache != "auto":
        policy: Policy = gradients.cache
    elif size <= gradients.memory_budget_gib * _GIB:
        policy = "memory"
    else:
        policy = "disk" if size <= gradients.disk_budget_gib * _GIB else "recompute"
    logger.info(
        "%s × %s: their gradients take %s (%s)",
        format_noun(len(engine.training), "example"),
        format_noun(len(plan.points), "point"),
        format_bytes(size),
        {"memory": "kept in memory", "disk": "kept on disk"}.get(
            policy, "computed again by each later stage"
        ),
    )
    solves = METHODS[attribution.method].scoring == "exact solves"
    cost = RunCost.of(
        engine,
        plan,
        probe,
        queries=len(setup.queries),
        recomputed=policy == "recompute",
        rate=matmul_rate(engine.device, engine.dtype),
        solve=SolveSettings(**attribution.astra.model_dump()) if solves else None,
    )
    return policy, cost


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
            ["example_signals", "query_signals", "covariances", "extraction_metrics"],
        ),
    ]
)

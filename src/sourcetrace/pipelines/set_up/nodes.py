"""The set-up of an audit: the plan, and the gradients it needs, made once a run.

Every numerical stage's pipeline contains the nodes; Kedro joins identical ones, so a run of several
stages sets up once.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import cache, partial

import torch

from sourcetrace.core.engine.draws import choose_draws
from sourcetrace.core.engine.gradient_engine import GradientEngine
from sourcetrace.core.model.examples import Examples
from sourcetrace.core.plan.methods import METHODS
from sourcetrace.datasets.gradient_cache import GradientCache
from sourcetrace.errors import InputError
from sourcetrace.files import digest_of
from sourcetrace.parameters import (
    AttributionParameters,
    GradientParameters,
    LaunchParameters,
    TaskParameters,
)
from sourcetrace.pipelines.set_up.audit_setup import AuditSetup
from sourcetrace.pipelines.set_up.contents import Contents
from sourcetrace.pipelines.set_up.costs import PlannedCost, choose_batch, plan_costs
from sourcetrace.pipelines.set_up.grid import grid_for, grid_key, kept_grids
from sourcetrace.pipelines.set_up.kept_curvature import KeptCurvature
from sourcetrace.pipelines.set_up.launch import make_team
from sourcetrace.pipelines.set_up.matched_items import MatchedItems
from sourcetrace.pipelines.set_up.weights import LargeWeights
from sourcetrace.pipelines.shared.coverage import coverage_of
from sourcetrace.pipelines.shared.device import pick_device
from sourcetrace.pipelines.shared.inputs import Ingested, check_inputs
from sourcetrace.pipelines.shared.manifest import plan_of, segments_of
from sourcetrace.pipelines.shared.memory import log_held, refuse_too_large
from sourcetrace.pipelines.shared.set_aside import SettingAside, usable_few
from sourcetrace.pipelines.shared.step import step
from sourcetrace.tasks import Task
from sourcetrace.work.ranks import Rank

logger = logging.getLogger(__name__)

_ALONE = LaunchParameters()
_STRICT = TaskParameters.model_validate({"class": "any.Task"})


def set_up_audit(
    ingested: Ingested,
    gradient_cache: GradientCache,
    gradients: GradientParameters,
    attribution: AttributionParameters,
    launch: LaunchParameters = _ALONE,
    specification: TaskParameters = _STRICT,
) -> AuditSetup:
    """Make the plan and the gradient engine from what the ingest wrote.

    How the work is cut is chosen by the first run of an audit, and stands.
    """
    task, manifest, train_table = ingested.task, ingested.manifest, ingested.train_table
    _refuse_without_hessian(task, attribution.method)
    query_ids = ingested.query_table["example_id"].to_list()
    items = task.train_examples() if ingested.read else MatchedItems.of(ingested)
    training = Examples(items, train_table["example_id"], task.collate)
    queries = Examples(task.query_examples(), query_ids, task.collate)
    device = pick_device(attribution.device)
    team = make_team(launch, gradient_cache.folder / "units")
    team.parts_for = ingested.parts_for
    model = task.build_model().to(device)
    files = {row["checkpoint_id"]: row for row in manifest.iter_rows(named=True)}

    def read_weights(name: str) -> Mapping[str, torch.Tensor]:
        return ingested.checkpoints.weights(files[name]["file"], files[name]["sha256"], model)

    load_weights = LargeWeights(read_weights, gradient_cache.folder)
    # The ingest's, for what the model does with an example may depend on them.
    model.load_state_dict(load_weights(manifest["checkpoint_id"][-1]))
    segments = segments_of(manifest)
    setting_aside = SettingAside(ingested, gradient_cache.folder, specification.set_aside)
    usable = training.without(setting_aside.refresh())
    few = usable_few(task, model.eval(), usable)
    coverage = coverage_of(task, model, few, device, segments, attribution=attribution)
    planned = cache(partial(plan_of, segments, train_table, training, coverage, attribution))
    plan = planned(setting_aside.numbers)
    engine = GradientEngine(
        model=model,
        objective=task,
        coverage=coverage,
        training=training,
        load_weights=load_weights,
        cache=gradient_cache,
        batch_size=1,
        seed=attribution.seed,
        precision=attribution.precision.passes,
        unit_norm=METHODS[attribution.method].unit_norm,
        set_aside=setting_aside,
    )
    engine.draws = choose_draws(engine, attribution.sampled_labels, few=few)
    with kept_grids(gradient_cache.folder) as grids:
        key = grid_key(ingested.unit_parts("gradient_extraction"), device, gradients)
        grid, cost = grid_for(grids, key, len(training)), None
        needs, free = refuse_too_large(
            model,
            coverage.layers,
            plan,
            attribution.method,
            queries=len(queries),
            device=device,
            most=gradients.memory_bytes,
            grouped=grid.memory_bytes if grid else None,
        )
        if grid is None:
            engine.batch_size = choose_batch(engine, plan, len(queries), gradients)
            cost = plan_costs(
                engine, plan, needs, gradient_cache, attribution, gradients, queries=len(queries)
            )
            grid = grids[f"{key}-{len(training)}"] = cost.grid(
                engine, plan, free, unit_seconds=launch.unit_seconds
            )
    log_held(needs, free)
    engine.batch_size = grid.batch_size
    if gradients.cache != "auto":
        grid = replace(grid, policy=gradients.cache)
    # On another device the same gradients differ by their rounding, as in other batches.
    gradient_cache.open(f"{ingested.identity} {device.type} {grid.batch_size}")
    if Rank.here().size == 1:  # others are not started yet
        team.ledger.tidy()
    kept = KeptCurvature(
        gradient_cache.folder,
        digest_of(ingested.parts_for("source_scoring")),
        attribution.kept_curvature,
    )

    def settle() -> None:
        setting_aside.settle()
        kept.settle()

    team.check = settle
    setup = AuditSetup(
        ingested,
        planned,
        engine,
        queries,
        gradient_cache,
        attribution,
        needs,
        grid,
        team,
        setting_aside,
        Contents.of(ingested, engine),
        kept,
        cost,
    )
    setup.choose_curvature()
    return setup


def planned_cost(setup: AuditSetup, gradients: GradientParameters) -> PlannedCost:
    """Return what an audit takes, by the probe of its set-up or, where there was none, by one now.

    Args:
        setup: Of the audit.
        gradients: Where they may be kept.
    """
    if setup.cost is not None:
        return setup.cost
    kept = gradients.model_copy(update={"cache": setup.grid.policy})
    return plan_costs(
        setup.engine,
        setup.plan,
        setup.needs,
        setup.cache,
        setup.attribution,
        kept,
        queries=len(setup.queries),
    )


def _refuse_without_hessian(task: Task, method: str) -> None:
    if METHODS[method].scoring == "exact solves" and not getattr(task, "exact_curvature", True):
        raise InputError(
            f"attribution.method: {method} solves with the Hessian of train_loss, which is 0 or "
            "has negative eigenvalues for this task's loss. Take scaled_source or another method, "
            "where another curvature stands in for it (docs/reference/losses.md)."
        )


SET_UP = (
    step(check_inputs, "ingested"),
    step(set_up_audit, "audit_setup", specification="params:task"),
)
"""The nodes, the same in every stage: the inputs are checked, then all is set up."""

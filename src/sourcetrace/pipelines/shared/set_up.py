"""The set-up of an audit: the plan, and the gradients it needs, made once a run.

Every numerical stage's pipeline contains the nodes; Kedro joins identical ones, so a run of several
stages sets up once.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import polars as pl
import torch

from sourcetrace.core.curvature.preconditioner import mean_preconditioner
from sourcetrace.core.engine.draws import choose_draws
from sourcetrace.core.engine.gradient_engine import GradientEngine
from sourcetrace.core.layers.discovery import Coverage
from sourcetrace.core.layers.layer import Layer
from sourcetrace.core.methods.memory_needs import MemoryNeeds
from sourcetrace.core.model.examples import Examples
from sourcetrace.core.plan.methods import METHODS
from sourcetrace.core.plan.plan import AttributionPlan, PlannedSegment
from sourcetrace.core.training.optimizer_settings import ADAPTIVE
from sourcetrace.core.training.segments import Segment
from sourcetrace.datasets.gradient_cache import GradientCache
from sourcetrace.errors import InputError
from sourcetrace.files import digest_of
from sourcetrace.parameters import (
    AttributionParameters,
    GradientParameters,
    LaunchParameters,
    TaskParameters,
)
from sourcetrace.pipelines.shared.costs import PlannedCost, choose_batch, plan_costs
from sourcetrace.pipelines.shared.coverage import coverage_of
from sourcetrace.pipelines.shared.device import pick_device
from sourcetrace.pipelines.shared.grid import Grid, grid_key, kept_grids
from sourcetrace.pipelines.shared.inputs import Ingested, check_inputs
from sourcetrace.pipelines.shared.launch import make_team
from sourcetrace.pipelines.shared.manifest import segments_of
from sourcetrace.pipelines.shared.memory import log_held, refuse_too_large
from sourcetrace.pipelines.shared.set_aside import SettingAside
from sourcetrace.pipelines.shared.step import step
from sourcetrace.pipelines.shared.weights import LargeWeights
from sourcetrace.tasks import Task
from sourcetrace.work.ledger import Unit
from sourcetrace.work.team import Team

logger = logging.getLogger(__name__)

_ALONE = LaunchParameters()
_STRICT = TaskParameters.model_validate({"class": "any.Task"})


@dataclass(frozen=True)
class AuditSetup:
    """What the numerical stages work with.

    Attributes:
        inputs: What the ingest accepted.
        planned: Numbers of examples that are set aside -> what is evaluated without them.
        engine: The training gradients.
        queries: The queries.
        cache: Where the engine keeps gradients.
        attribution: The method and its settings.
        needs: What is held in memory, and which layers at once.
        grid: How the work is cut.
        team: The processes that do it, this one among them.
        set_aside: What takes note of examples that cannot be used.
        cost: What it takes, by the probe with which this process chose the grid; None where it
            found one.
    """

    inputs: Ingested
    planned: Callable[[tuple[int, ...]], AttributionPlan]
    engine: GradientEngine
    queries: Examples
    cache: GradientCache
    attribution: AttributionParameters
    needs: MemoryNeeds
    grid: Grid
    team: Team
    set_aside: SettingAside
    cost: PlannedCost | None = None

    @property
    def plan(self) -> AttributionPlan:
        """What is evaluated, without the examples that are known to be set aside."""
        return self.planned(self.set_aside.numbers)

    def unit(
        self,
        stage: str,
        name: str,
        *,
        reads: Sequence[Unit] = (),
        cost: float = 1.0,
        **parts: str,
    ) -> Unit:
        """Return a unit of a stage's work.

        Args:
            stage: Its pipeline.
            name: Its place in the stage.
            reads: The units whose files it reads.
            cost: Relative to others' of its phase.
            parts: Digests of what decides its bytes, beside or instead of those of its stage.
        """
        made_of = {
            **self.inputs.parts_for(stage),
            "grid": digest_of([self.grid.batch_size, self.engine.draws, self.engine.device.type]),
            "set_aside": digest_of(self.set_aside.numbers),
            **parts,
        }
        if reads:
            made_of["reads"] = digest_of([one.identity for one in reads])
        return Unit(stage, name, made_of, cost)

    def planned_cost(self, gradients: GradientParameters) -> PlannedCost:
        """Return what the audit takes, by the probe or, where the grid was found, by one now."""
        return self.cost or plan_costs(
            self.engine,
            self.plan,
            self.needs,
            self.cache,
            self.attribution,
            gradients.model_copy(update={"cache": self.grid.policy}),
            queries=len(self.queries),
        )

    def roots(
        self, planned: PlannedSegment, layers: Sequence[Layer] | None = None
    ) -> dict[str, torch.Tensor]:
        """Return P̄^½ of a segment by layer; nothing where steps follow the gradient itself.

        Args:
            planned: The segment.
            layers: Of these alone; None for all.
        """
        if not self.is_preconditioned(planned):
            return {}
        layers = self.engine.coverage.layers if layers is None else layers
        wanted = {name for layer in layers for name in layer.parameters}
        rows = {row["checkpoint_id"]: row for row in self.inputs.manifest.iter_rows(named=True)}
        found = [self._denominators(rows[name], wanted) for name in planned.segment.checkpoints]
        means = {
            layer.name: mean_preconditioner(layer, found, dtype=self.engine.dtype)
            for layer in layers
        }
        return {name: root for name, root in means.items() if root is not None}

    def is_preconditioned(self, planned: PlannedSegment) -> bool:
        """Return whether a segment's curvature is seen through P̄^½."""
        follows = METHODS[self.attribution.method].follows_optimizer
        return follows and planned.segment.optimizer in ADAPTIVE

    def _denominators(self, row: Mapping[str, Any], wanted: set[str]) -> dict[str, torch.Tensor]:
        names: dict[int, list[str]] = {}
        for one in row["state_places"]:
            names.setdefault(one["place"], []).append(one["parameter"])
        names = {place: own for place, own in names.items() if not wanted.isdisjoint(own)}
        return self.inputs.checkpoints.denominators(row["file"], row["sha256"], names)


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
    training = Examples(task.train_examples(), train_table["example_id"].to_list(), task.collate)
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
    coverage = coverage_of(task, model, usable, device, segments, attribution=attribution)
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
    engine.draws = choose_draws(replace(engine, training=usable))
    with kept_grids(gradient_cache.folder) as grids:
        key, cost = grid_key(ingested, device, gradients), None
        grid = grids.get(key)
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
            grid = grids[key] = cost.grid(engine, plan, free, unit_seconds=launch.unit_seconds)
    log_held(needs, free)
    engine.batch_size = grid.batch_size
    if gradients.cache != "auto":
        grid = replace(grid, policy=gradients.cache)
    # On another device the same gradients differ by their rounding, as in other batches.
    gradient_cache.open(f"{ingested.identity} {device.type} {grid.batch_size}")
    if team.size == 1:
        team.ledger.join_logs()
    return AuditSetup(
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
        cost,
    )


def plan_of(
    segments: Sequence[Segment],
    train_table: pl.DataFrame,
    training: Examples,
    coverage: Coverage,
    attribution: AttributionParameters,
    set_aside: Sequence[int] = (),
) -> AttributionPlan:
    """Return what is evaluated for the parameters' method, without examples of these numbers."""
    count, seed = attribution.curvature_examples, attribution.seed
    sample = None
    if count is not None:
        sample = partial(training.drawn, count=count, seed=seed, purpose="curvature")
    return AttributionPlan.of(
        attribution.method,
        segments,
        stage_examples(train_table, set_aside),
        damping=attribution.damping,
        layers=coverage.layers,
        curvature_sample=sample,
    )


def _refuse_without_hessian(task: Task, method: str) -> None:
    if METHODS[method].scoring == "exact solves" and not getattr(task, "exact_curvature", True):
        raise InputError(
            f"attribution.method: {method} solves with the Hessian of train_loss, which is 0 or "
            "has negative eigenvalues for this task's loss. Take scaled_source or another method, "
            "where another curvature stands in for it (docs/reference/losses.md)."
        )


def stage_examples(
    train_table: pl.DataFrame, set_aside: Sequence[int] = ()
) -> dict[str, torch.Tensor]:
    """Return the numbers of the training examples of every stage, increasing, without some.

    An example of several stages is counted in each.
    """
    numbered = train_table.select("stage").with_row_index("number").explode("stage")
    numbered = numbered.filter(~pl.col("number").is_in(list(set_aside)))
    return {
        str(stage): torch.tensor(rows["number"].to_list())
        for (stage,), rows in numbered.group_by("stage", maintain_order=True)
    }


SET_UP = (
    step(check_inputs, "ingested"),
    step(set_up_audit, "audit_setup", specification="params:task"),
)
"""The nodes, the same in every stage: the inputs are checked, then all is set up."""

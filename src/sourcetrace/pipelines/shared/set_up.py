"""The set-up of an audit: the plan, and the gradients it needs, made once a run.

Every numerical stage's pipeline contains the nodes; Kedro joins identical ones, so a run of several
stages sets up once.
"""

import logging
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import polars as pl
import torch

from sourcetrace.core.curvature.preconditioner import mean_preconditioner
from sourcetrace.core.engine.draws import choose_draws
from sourcetrace.core.engine.gradient_engine import GradientEngine
from sourcetrace.core.layers.discovery import Coverage
from sourcetrace.core.layers.layer import Layer
from sourcetrace.core.methods.memory_needs import MemoryNeeds, StageNeeds
from sourcetrace.core.model.examples import Examples
from sourcetrace.core.plan.batch_size import choose_batch_size
from sourcetrace.core.plan.methods import METHODS
from sourcetrace.core.plan.plan import AttributionPlan
from sourcetrace.core.training.optimizer_settings import ADAPTIVE
from sourcetrace.core.training.segments import Segment
from sourcetrace.datasets.gradient_cache import GradientCache
from sourcetrace.datasets.tensor_file import LayerValue, SetAside
from sourcetrace.errors import InputError
from sourcetrace.files import digest_of
from sourcetrace.formats import format_bytes, format_noun
from sourcetrace.parameters import AttributionParameters, GradientParameters, LaunchParameters
from sourcetrace.pipelines.shared.coverage import coverage_of
from sourcetrace.pipelines.shared.device import pick_device
from sourcetrace.pipelines.shared.grid import Grid
from sourcetrace.pipelines.shared.inputs import Ingested, check_inputs
from sourcetrace.pipelines.shared.launch import make_team
from sourcetrace.pipelines.shared.manifest import segments_of
from sourcetrace.pipelines.shared.memory import log_held, refuse_too_large
from sourcetrace.pipelines.shared.step import step
from sourcetrace.pipelines.shared.weights import LargeWeights
from sourcetrace.tasks import Task
from sourcetrace.work.ledger import Unit
from sourcetrace.work.team import Team

logger = logging.getLogger(__name__)

_ALONE = LaunchParameters()


@dataclass(frozen=True)
class AuditSetup:
    """What the numerical stages work with.

    Attributes:
        inputs: What the ingest accepted.
        plan: What is evaluated.
        engine: The training gradients.
        queries: The queries.
        cache: Where the engine keeps gradients.
        attribution: The method and its settings.
        needs: What is held in memory, and which layers at once.
        grid: How the work is cut.
        team: The processes that do it, this one among them.
    """

    inputs: Ingested
    plan: AttributionPlan
    engine: GradientEngine
    queries: Examples
    cache: GradientCache
    attribution: AttributionParameters
    needs: MemoryNeeds
    grid: Grid
    team: Team

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
            parts: Further digests of what decides its bytes.
        """
        made_of = {
            **self.inputs.parts_for(stage),
            "grid": digest_of([asdict(self.grid), self.engine.draws, self.engine.device.type]),
            **parts,
        }
        if reads:
            made_of["reads"] = digest_of([one.identity for one in reads])
        return Unit(stage, name, made_of, cost)

    def layers_of(
        self, make: type[LayerValue], stage: StageNeeds
    ) -> MutableMapping[str, LayerValue]:
        """Return a place for what a stage makes of layers, on disk if it waits there for the end.

        Args:
            make: What it makes; from disk too it comes back on the engine's device.
            stage: What the stage holds.
        """
        device = self.engine.device

        def made(tensors: Mapping[str, torch.Tensor]) -> LayerValue:
            return make.of_tensors({name: one.to(device) for name, one in tensors.items()})

        return SetAside(self.cache.folder, made) if stage.disk else {}

    def preconditioners(
        self, layers: Sequence[Layer] | None = None
    ) -> Iterator[dict[str, torch.Tensor]]:
        """Yield P̄^½ of every segment by layer; nothing where steps follow the gradient itself.

        Args:
            layers: Of these alone; None for all.
        """
        layers = self.engine.coverage.layers if layers is None else layers
        wanted = {name for layer in layers for name in layer.parameters}
        rows = {row["checkpoint_id"]: row for row in self.inputs.manifest.iter_rows(named=True)}
        follows = METHODS[self.attribution.method].follows_optimizer
        for planned in self.plan.segments:
            roots = {}
            if follows and planned.segment.optimizer in ADAPTIVE:
                found = [
                    self._denominators(rows[name], wanted) for name in planned.segment.checkpoints
                ]
                for layer in layers:
                    root = mean_preconditioner(layer, found, dtype=self.engine.dtype)
                    if root is not None:
                        roots[layer.name] = root
            yield roots

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
) -> AuditSetup:
    """Make the plan and the gradient engine from what the ingest wrote.

    Where `gradients.batch_size` is `auto`, the size that an earlier run of the same audit chose
    stands: gradients on disk are kept by batch.
    """
    task, manifest, train_table = ingested.task, ingested.manifest, ingested.train_table
    _refuse_without_hessian(task, attribution.method)
    query_ids = ingested.query_table["example_id"].to_list()
    training = Examples(task.train_examples(), train_table["example_id"].to_list(), task.collate)
    queries = Examples(task.query_examples(), query_ids, task.collate)
    device = pick_device(attribution.device)
    team = make_team(launch, gradient_cache.folder / "units")
    model = task.build_model().to(device)
    files = {row["checkpoint_id"]: row for row in manifest.iter_rows(named=True)}

    def read_weights(name: str) -> Mapping[str, torch.Tensor]:
        return ingested.checkpoints.weights(files[name]["file"], files[name]["sha256"], model)

    load_weights = LargeWeights(read_weights, gradient_cache.folder)
    # The ingest's, for what the model does with an example may depend on them.
    model.load_state_dict(load_weights(manifest["checkpoint_id"][-1]))
    segments = segments_of(manifest)
    coverage = coverage_of(task, model, training, device, segments, attribution=attribution)
    plan = plan_of(segments, train_table, training, coverage, attribution)
    needs, free = refuse_too_large(
        model,
        coverage.layers,
        plan,
        attribution.method,
        queries=len(queries),
        device=device,
        most=gradients.memory_bytes,
    )
    log_held(needs, free)
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
    )
    engine.draws = choose_draws(engine)
    # On another device the same gradients differ by their rounding.
    gradient_cache.open(f"{ingested.identity} {device.type}")
    if gradients.batch_size == "auto":
        most = gradients.memory_bytes
        engine.batch_size = gradient_cache.batch_size or _chosen_batch_size(
            engine, plan, queries, most=most
        )
    else:
        engine.batch_size = gradients.batch_size
    grid = Grid(engine.batch_size, len(training))
    return AuditSetup(
        ingested, plan, engine, queries, gradient_cache, attribution, needs, grid, team
    )


def plan_of(
    segments: Sequence[Segment],
    train_table: pl.DataFrame,
    training: Examples,
    coverage: Coverage,
    attribution: AttributionParameters,
) -> AttributionPlan:
    """Return what is evaluated for the parameters' method."""
    count, seed = attribution.curvature_examples, attribution.seed
    sample = None
    if count is not None:
        sample = partial(training.drawn, count=count, seed=seed, purpose="curvature")
    return AttributionPlan.of(
        attribution.method,
        segments,
        stage_examples(train_table),
        examples=train_table.height,
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


def _chosen_batch_size(
    engine: GradientEngine, plan: AttributionPlan, queries: Examples, *, most: int | None
) -> int:
    choice = choose_batch_size(engine, plan, queries=len(queries), most=most)
    logger.debug(
        "Batches of %s: one takes %s, %s are free",
        format_noun(choice.examples, "example"),
        format_bytes(choice.bytes_per_example),
        format_bytes(choice.free_bytes),
    )
    return choice.examples


def stage_examples(train_table: pl.DataFrame) -> dict[str, torch.Tensor]:
    """Return the numbers of the training examples of every stage, increasing.

    An example of several stages is counted in each.
    """
    numbered = train_table.select("stage").with_row_index("number").explode("stage")
    return {
        str(stage): torch.tensor(rows["number"].to_list())
        for (stage,), rows in numbered.group_by("stage", maintain_order=True)
    }


SET_UP = (step(check_inputs, "ingested"), step(set_up_audit, "audit_setup"))
"""The nodes, the same in every stage: the inputs are checked, then all is set up."""

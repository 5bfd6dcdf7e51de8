"""What an audit takes of time and disk, and where its gradients are kept."""

import logging
import os
from dataclasses import dataclass
from math import ceil

import torch

from sourcetrace.core.engine.gradient_engine import GradientEngine
from sourcetrace.core.engine.samples import TimedProbe, one_thread_gain
from sourcetrace.core.machine.timing import matmul_rate
from sourcetrace.core.methods.astra import SolveSettings
from sourcetrace.core.methods.cost import RunCost
from sourcetrace.core.methods.memory_needs import MemoryNeeds
from sourcetrace.core.model.examples import EvaluationPoint
from sourcetrace.core.plan.batch_size import choose_batch_size
from sourcetrace.core.plan.methods import METHODS
from sourcetrace.core.plan.plan import AttributionPlan
from sourcetrace.datasets.gradient_cache import GradientCache, Policy
from sourcetrace.errors import InputError
from sourcetrace.formats import format_bytes, format_noun
from sourcetrace.parameters import AttributionParameters, GradientParameters
from sourcetrace.pipelines.set_up.grid import Grid, range_size

logger = logging.getLogger(__name__)

_GIB = 2**30

_WORTH_IT = 1.5
"""How many times as fast one thread must be to be worth another start."""

_WORTHWHILE = 1 / 3
"""Of what passes take, what the disk may: it is tried with files that are still in memory, and the
space is taken from others."""

_TIMED_BYTES = 64 * 2**20
"""Of gradients that are written and read to know what the disk takes."""

_SUMS_A_SECOND = 25e6
"""Bytes of covariance sums to a unit's second: where a disk takes 500 MB/s, they are written and
read in a tenth of its time."""

_SCORE_BYTES = 8
"""Of a training example and a query, in all tables together."""


@dataclass(frozen=True)
class PlannedCost:
    """What an audit takes.

    Attributes:
        policy: Where gradients are kept.
        gradients: Their bytes.
        example_seconds: Of extraction, an example at a point.
        run: Its passes and products.
        disk: Bytes that are written.
        free_disk: Bytes that are free where gradients are kept.
    """

    policy: Policy
    gradients: int
    example_seconds: float
    run: RunCost
    disk: int
    free_disk: int

    @property
    def kept(self) -> str:
        """Where gradients are kept, in words."""
        words = {"memory": "kept in memory", "disk": "kept on disk"}
        return words.get(self.policy, "computed again by each later stage")

    def grid(
        self, engine: GradientEngine, plan: AttributionPlan, memory: int, *, unit_seconds: float
    ) -> Grid:
        """Return how the work is cut.

        Args:
            engine: With its batch size.
            plan: What is evaluated.
            memory: Bytes by which layers are grouped.
            unit_seconds: What a unit of work is to take.
        """
        sums = sum(one.kept_bytes for one in self.run.stages if one.name == "covariances")
        sums //= len(plan.points)
        size = range_size(
            engine.batch_size,
            self.example_seconds,
            points=max(len(one.points) for one in plan.segments),
            wanted=max(unit_seconds, sums / _SUMS_A_SECOND),
        )
        examples = len(engine.training)
        # The ranges of a point wait on disk until all are added.
        while size < examples and sums * ceil(examples / size) > self.free_disk - self.disk:
            size *= 2
        return Grid(engine.batch_size, size, memory, self.policy, examples)


def choose_batch(
    engine: GradientEngine, plan: AttributionPlan, queries: int, gradients: GradientParameters
) -> int:
    """Return the examples of a batch, by the parameters or the memory that is free."""
    if gradients.batch_size != "auto":
        return gradients.batch_size
    choice = choose_batch_size(engine, plan, queries=queries, most=gradients.memory_bytes)
    logger.debug(
        "Batches of %s: one takes %s, %s are free",
        format_noun(choice.examples, "example"),
        format_bytes(choice.bytes_per_example),
        format_bytes(choice.free_bytes),
    )
    return choice.examples


def plan_costs(
    engine: GradientEngine,
    plan: AttributionPlan,
    needs: MemoryNeeds,
    cache: GradientCache,
    attribution: AttributionParameters,
    gradients: GradientParameters,
    *,
    queries: int,
) -> PlannedCost:
    """Choose where gradients are kept, and return what the run will cost.

    Args:
        engine: The training gradients.
        plan: What is evaluated.
        needs: Which layers are taken at once.
        cache: Where gradients are kept.
        attribution: The method.
        gradients: Where they may be kept.
        queries: Q.

    Raises:
        InputError: If the disk does not hold what is written.
    """
    probe = TimedProbe.of(engine, plan.points[-1])
    visits = sum(len(point.examples) for point in plan.points)
    size, free = visits * probe.extraction.bytes_per_example, cache.free_bytes
    solves = METHODS[attribution.method].scoring == "exact solves"
    kept, recomputed = (
        RunCost.of(
            engine,
            plan,
            probe,
            queries=queries,
            recomputed=again,
            rate=matmul_rate(engine.device, engine.dtype),
            solve=SolveSettings(**attribution.astra.model_dump()) if solves else None,
            scales=METHODS[attribution.method].scales_curvature,
            groups=needs.group_counts,
        )
        for again in (False, True)
    )
    if gradients.cache != "auto":
        policy: Policy = gradients.cache
    elif size <= gradients.memory_budget_gib * _GIB:
        policy = "memory"
    elif size > min(gradients.disk_budget_gib * _GIB, free / 2):
        policy = "recompute"
    else:
        most = _WORTHWHILE * (recomputed.seconds - kept.seconds)
        policy = "disk" if visits * _disk_seconds(cache, probe) < most else "recompute"
    run = recomputed if policy == "recompute" else kept
    written = {stage.name: stage.kept_bytes for stage in run.stages}
    kept_scores = 0 if attribution.precision.stored_scores == "strongest" else queries
    disk = _SCORE_BYTES * len(engine.training) * (kept_scores + 1)
    # The curvature in units, and as the catalog has it.
    curvature = sum(written.get(one, 0) for one in ("eigendecompositions", "corrected_eigenvalues"))
    disk += written.get("covariances", 0) + 2 * curvature
    disk += needs.weights_on_disk + size * (policy == "disk")
    seconds = probe.passes + probe.covariances
    cost = PlannedCost(policy, size, seconds, run, disk, free)
    if cost.disk > free:
        raise InputError(
            f"The audit writes {format_bytes(cost.disk)}, but {format_bytes(free)} are free on the "
            f"disk of {cache.folder}. Make room, audit fewer checkpoints or queries, or set "
            "gradients.cache to recompute."
        )
    return cost


def _disk_seconds(cache: GradientCache, probe: TimedProbe) -> float:
    """Return what keeping an example's gradients on disk takes, by some of the probe's."""
    passed = probe.extraction
    count = max(1, min(len(passed.signals.examples), _TIMED_BYTES // passed.bytes_per_example))
    rows = {name: one[:count] for name, one in passed.tensors().items()}
    return cache.disk_seconds(rows) / count


def log_kept(engine: GradientEngine, plan: AttributionPlan, cost: PlannedCost) -> None:
    """Say what the gradients take, and where they are kept."""
    logger.info(
        "Gradients of %s at %s take %s (%s)",
        format_noun(len(engine.training), "example"),
        format_noun(len(plan.points), "point"),
        format_bytes(cost.gradients),
        cost.kept,
    )


def advise_on_threads(engine: GradientEngine, point: EvaluationPoint) -> None:
    """Say where one thread is faster than those that are set, unless somebody has set them.

    They are not changed: the last bits of the scores depend on them, and so would a verification,
    which is of scores with these very bits.
    """
    if "OMP_NUM_THREADS" in os.environ:
        return
    gain = one_thread_gain(engine, point)
    if gain >= _WORTH_IT:
        logger.warning(
            "One thread is %.1f times as fast here as %d: the machine is busy, or batches are "
            "small. Start the run with OMP_NUM_THREADS=1; the scores differ in their last bits.",
            gain,
            torch.get_num_threads(),
        )

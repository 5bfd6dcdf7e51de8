"""The pipeline's numerical stages without Kedro, timed stage by stage.

Ingest, covariances, eigendecomposition, corrected eigenvalues and scores, by the functions that
the nodes call. Nothing is written but what the cache keeps.
"""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from benchmarks.measurement import STAGES, Stopwatch
from tests.tiny import fit_segment
from torch import Tensor

from sourcetrace.checkpoints.folder import CheckpointFolder
from sourcetrace.core.curvature.covariance import RunningCovariances
from sourcetrace.core.methods.astra import SegmentSolve, SolveSettings
from sourcetrace.core.methods.curvature_scale import curvature_scales
from sourcetrace.core.methods.preparation import QueryPreparation, ScoreSettings
from sourcetrace.core.methods.scorers import MeanScorer
from sourcetrace.datasets.gradient_cache import GradientCache, Policy
from sourcetrace.parameters import (
    AttributionParameters,
    GradientParameters,
    SegmentParameters,
)
from sourcetrace.pipelines.checkpoint_ingest.nodes import ingest_checkpoints
from sourcetrace.pipelines.ekfac_fitting.preconditioner import roots_of
from sourcetrace.pipelines.set_up.audit_setup import AuditSetup
from sourcetrace.pipelines.set_up.nodes import set_up_audit
from sourcetrace.pipelines.shared.inputs import Ingested

COVARIANCES, EIGENDECOMPOSITION, CORRECTED_EIGENVALUES, SCORES = STAGES
INGEST = "ingest"


@dataclass(frozen=True)
class PipelineRun:
    """What a run gave, and what it took.

    Attributes:
        scores: [Q, N]; of no example, [Q, 0], where they were not kept.
        self_influence: [N], where it was asked for.
        passes: Forward and backward passes, counted by example.
        solves: How well ASTRA's systems were solved, where there were any.
        errors: Relative errors that the scorer measured of itself, a member each.
    """

    scores: Tensor
    self_influence: Tensor
    passes: tuple[int, int]
    solves: Sequence[SegmentSolve]
    errors: Sequence[float]


def run_pipeline(
    task: Any,
    checkpoints: CheckpointFolder,
    attribution: AttributionParameters,
    segments: int | Literal["auto"],
    *,
    batch_size: int = 1000,
    cache: Policy = "memory",
    cache_folder: Path | None = None,
    tolerance: float | None = None,
    keep_scores: bool = True,
    self_influence: bool = False,
    scored_examples: int | None = None,
    preconditioned: bool = True,
    watch: Stopwatch | None = None,
) -> PipelineRun:
    """Run every numerical stage.

    Args:
        task: The task.
        checkpoints: Its checkpoints.
        attribution: Method, device and seed.
        segments: How many, or `auto`.
        batch_size: Examples a forward pass.
        cache: Where gradients are kept: in memory, which grows with the training data; on disk;
            or nowhere, so that every stage computes them again. A pipeline's own `auto` takes the
            first of the three whose budget their size is within.
        cache_folder: Where `disk` keeps them.
        tolerance: Of the scores' relative error; the parameters' if not given.
        keep_scores: Whether they are returned; they too grow with the training data.
        self_influence: Whether it is computed too.
        scored_examples: Blocks that begin behind so many examples are not scored.
        preconditioned: Whether Adam's P̄ is followed, where it trained.
        watch: Times the stages, under the names in `STAGES` and `INGEST`.
    """
    if cache == "disk" and cache_folder is None:
        raise ValueError("cache='disk' needs a cache_folder.")
    watch = Stopwatch() if watch is None else watch
    watch.start(INGEST)
    manifest, _, train_table, query_table = ingest_checkpoints(
        checkpoints, task, SegmentParameters(count=segments), attribution
    )[1:5]
    with tempfile.TemporaryDirectory() as scratch:
        gradient_cache = GradientCache(cache_folder or Path(scratch))
        gradient_cache.policy = cache
        setup = set_up_audit(
            Ingested(
                task, checkpoints, manifest, train_table, query_table, "", identity="benchmark"
            ),
            gradient_cache=gradient_cache,
            gradients=GradientParameters(batch_size=batch_size),
            attribution=attribution,
        )
        engine, plan = setup.engine, setup.plan
        curvatures = fit_curvatures(setup, preconditioned=preconditioned, watch=watch)
        watch.start(SCORES)
        settings = ScoreSettings(
            solve=SolveSettings(**attribution.astra.model_dump()),
            projection_dimension=attribution.projection_dimension,
            tolerance=attribution.tolerance if tolerance is None else tolerance,
            precision=attribution.precision.scores,
        )
        scorer = MeanScorer.of(
            QueryPreparation(attribution.method, engine, setup.queries, settings),
            plan,
            curvatures,
            higher_is_better=task.measurement_higher_is_better,
        )
        kept, own = [], []
        for block in engine.blocks():
            if scored_examples is not None and block.start >= scored_examples:
                break
            found = scorer.scores(block, self_influence=self_influence)
            scores = found.shares.sum(0)[:-1]
            own.append(found.self_influence.sum(0))
            # A copy: a view of nothing would hold all of it.
            kept.append(scores if keep_scores else scores[:, :0].clone())
        watch.stop()
        return PipelineRun(
            torch.cat(kept, dim=1),
            torch.cat(own),
            (engine.passes.forward, engine.passes.backward),
            scorer.solves,
            [check.error for check in scorer.checks],
        )


def fit_curvatures(
    setup: AuditSetup, *, watch: Stopwatch, preconditioned: bool = True
) -> list[Any]:
    """Return EK-FAC of every segment, or as many None where the method needs none."""
    engine, plan = setup.engine, setup.plan
    if not plan.uses_curvature:
        return [None] * len(plan.segments)
    watch.start(COVARIANCES)
    running = {point.id: RunningCovariances() for point in plan.points}
    for point, block in engine.visits(plan.points):
        running[point.id].add(engine.extract(point, block).covariances)
    covariances = {name: one.sums() for name, one in running.items()}
    fitted = []
    for planned in plan.segments:
        roots = roots_of(setup, planned) if preconditioned else None
        watch.start(EIGENDECOMPOSITION)
        # The decomposition is done when the first block is asked for.
        blocks = _announced(engine.visits(planned.points), CORRECTED_EIGENVALUES, watch)
        fitted.append(
            fit_segment(engine, planned, covariances, preconditioners=roots, progress=blocks)
        )
    if setup.attribution.method == "scaled_source":
        scales = curvature_scales(engine, plan, fitted, setup.queries, [engine.coverage.layers])
        fitted = [
            {name: block.scaled(own[name]) for name, block in one.items()}
            for one, own in zip(fitted, scales, strict=True)
        ]
    watch.stop()
    return fitted


def _announced(values: Iterable[Any], stage: str, watch: Stopwatch) -> Iterator[Any]:
    """Start a stage when the first value is asked for."""
    watch.start(stage)
    yield from values

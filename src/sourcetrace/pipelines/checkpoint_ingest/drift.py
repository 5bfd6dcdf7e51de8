"""Segments that end where the training gradients change most."""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from sourcetrace.checkpoints.folder import CheckpointFolder
from sourcetrace.core.engine.blame import UnusableError
from sourcetrace.core.engine.drift import LARGEST_DRIFT, measure_drifts, segment_ends
from sourcetrace.core.engine.gradient_engine import GradientEngine
from sourcetrace.core.layers.discovery import Coverage
from sourcetrace.core.model.examples import Examples
from sourcetrace.core.training.segments import (
    CheckpointRecord,
    Segment,
    number_segments,
    partition_at,
)
from sourcetrace.datasets.gradient_cache import GradientCache
from sourcetrace.progress import track
from sourcetrace.tasks import Task
from sourcetrace.tasks.set_aside import may_set_aside

logger = logging.getLogger(__name__)


def drifting_segments(
    task: Task,
    model: nn.Module,
    checkpoints: CheckpointFolder,
    coverage: Coverage,
    training: Examples,
    *,
    records: Sequence[Sequence[CheckpointRecord]],
    stage_examples: Mapping[str, Tensor],
) -> list[Segment]:
    """Return the segments, which end where the gradients drift more than `LARGEST_DRIFT`.

    Args:
        task: The task.
        model: The model, on the device where it runs.
        checkpoints: Whose weights are put into it.
        coverage: The attributed layers.
        training: The training examples.
        records: Of every run.
        stage_examples: Stage -> numbers of its training examples, increasing.
    """
    files = {checkpoints.id_of(file): file for file in checkpoints.files()}
    engine = GradientEngine(
        model=model,
        objective=task,
        coverage=coverage,
        training=training,
        # One at a time is in memory.
        load_weights=lambda name: checkpoints.load(files[name], model).state_dict,
        cache=GradientCache(Path()),
        # One block: the few examples that are compared come in batches of their own.
        batch_size=len(training),
        seed=0,
    )
    while True:
        try:
            return number_segments(records, partial(_segments_of_run, engine, stage_examples))
        except UnusableError as error:
            if not may_set_aside(task):
                raise
            stage_examples = {name: error.without(one) for name, one in stage_examples.items()}


def _segments_of_run(
    engine: GradientEngine, examples: Mapping[str, Tensor], records: Sequence[CheckpointRecord]
) -> list[Segment]:
    drifts = list(measure_drifts(engine, track(records, "Drift"), examples))
    logger.debug(
        "Drift of the gradients from checkpoint to checkpoint: %s; a segment ends above %g",
        ", ".join(f"{drift:.2f}" for drift in drifts) or "one checkpoint",
        LARGEST_DRIFT,
    )
    return partition_at(records, segment_ends(records, drifts))

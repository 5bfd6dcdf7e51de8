"""Segments placed by how much the training gradients drift between checkpoints."""

import logging
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from sourcetrace.checkpoints.folder import CheckpointFolder
from sourcetrace.core.engine.drift import LARGEST_DRIFT, measure_drifts, segment_ends
from sourcetrace.core.engine.gradient_engine import GradientEngine
from sourcetrace.core.layers.coverage import Coverage
from sourcetrace.core.model.examples import Examples
from sourcetrace.core.training.segments import CheckpointRecord, Segment, partition, partition_at
from sourcetrace.datasets.gradient_cache import GradientCache
from sourcetrace.parameters import SegmentParameters
from sourcetrace.pipelines.shared.device import pick_device
from sourcetrace.pipelines.shared.set_up import stage_examples
from sourcetrace.progress import track
from sourcetrace.tasks import Task

logger = logging.getLogger(__name__)


def placed_segments(
    records: Sequence[CheckpointRecord], segments: SegmentParameters
) -> list[Segment]:
    """Return the segments of a run that the parameters ask for; for `auto`, one a stage for now."""
    if segments.ends is not None:
        return partition_at(records, segments.ends)
    return partition(records, 1 if segments.count == "auto" else segments.count)


def drift_source(
    task: Task,
    checkpoints: CheckpointFolder,
    train_table: pl.DataFrame,
    coverage: Coverage,
    device_name: str,
) -> GradientEngine:
    """Return the training gradients at the checkpoints of a folder.

    Args:
        task: The task.
        checkpoints: The folder; one at a time is in memory.
        train_table: The checked training table.
        coverage: The attributed layers.
        device_name: `attribution.device`.
    """
    model = task.build_model().to(pick_device(device_name))
    files = {checkpoints.id_of(file): file for file in checkpoints.files()}
    training = Examples(task.train_examples(), train_table["example_id"].to_list(), task.collate)
    return GradientEngine(
        model=model,
        objective=task,
        coverage=coverage,
        training=training,
        load_weights=lambda name: checkpoints.load(files[name], model).state_dict,
        cache=GradientCache(Path()),
        # One block: the few examples that are compared come in batches of their own.
        batch_size=len(training),
        seed=0,
    )


def automatic_segments(
    engine: GradientEngine, records: Sequence[CheckpointRecord], train_table: pl.DataFrame
) -> list[Segment]:
    """Return a run's segments, which end where the gradients drift more than `LARGEST_DRIFT`."""
    measured = measure_drifts(engine, track(records, "Drift"), stage_examples(train_table))
    drifts = list(measured)
    logger.info(
        "Drift of the gradients from checkpoint to checkpoint: %s; a segment ends above %g",
        ", ".join(f"{drift:.2f}" for drift in drifts) or "one checkpoint",
        LARGEST_DRIFT,
    )
    return partition_at(records, segment_ends(records, drifts))

"""Read every checkpoint and a little of the data, and refuse what will not work."""

import logging
from typing import TYPE_CHECKING, Any

import polars as pl

from sourcetrace.datasets.checkpoints import CheckpointFolder
from sourcetrace.parameters import AttributionParameters, SegmentParameters

if TYPE_CHECKING:
    from sourcetrace.tasks import Task
else:  # Kedro reads annotations; torch is imported when the node runs.
    Task = Any

logger = logging.getLogger(__name__)


def ingest_checkpoints(
    checkpoints: CheckpointFolder,
    task: Task,
    segments: SegmentParameters,
    attribution: AttributionParameters,
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Check checkpoints against the model and the data against the task.

    Args:
        checkpoints: The folder of checkpoints.
        task: The task they were trained on.
        segments: How many segments.
        attribution: The device on which the losses are tried.

    Returns:
        checkpoint_manifest, unattributed_parameters, train_table, query_table.
    """
    from sourcetrace.core.segments import check_order, partition, step_masses
    from sourcetrace.pipelines.checkpoint_ingest.checks import (
        check_labels,
        check_weights,
        query_table,
        train_table,
        try_losses,
    )

    model = task.build_model()
    found = []
    for file in checkpoints.files():
        checkpoint = checkpoints.load(file)
        check_weights(checkpoint, model)
        found.append(checkpoint)
    records = [checkpoint.record for checkpoint in found]
    check_order(records)
    partitioned = partition(records, segments.count)
    training = train_table(task, [segment.stage for segment in partitioned])
    queries = query_table(task)
    check_labels(task, training, "train")
    check_labels(task, queries, "query")
    coverage = try_losses(task, found[-1], training, queries, attribution.device)

    masses = step_masses(records)
    number = {name: segment.number for segment in partitioned for name in segment.checkpoints}
    manifest = pl.DataFrame(
        [
            {
                "checkpoint_id": record.id,
                "file": checkpoint.file,
                "step": record.step,
                "stage": record.stage,
                "segment": number[record.id],
                "learning_rate": record.learning_rate,
                "momentum": record.momentum,
                "weight_decay": record.weight_decay,
                "step_mass": mass,
                "sha256": checkpoint.sha256,
                "bytes": checkpoint.bytes,
                "attributed_share": coverage.share,
            }
            for checkpoint, record, mass in zip(found, records, masses, strict=True)
        ]
    )
    left_out = pl.DataFrame(
        [(p.name, p.size, p.reason) for p in coverage.unattributed],
        schema={"parameter": pl.String, "size": pl.Int64, "reason": pl.String},
        orient="row",
    )
    logger.info(
        "%d checkpoints in %d segments, steps %d to %d; %.1f %% of the parameters attributed",
        len(found),
        len(partitioned),
        records[0].step,
        records[-1].step,
        100 * coverage.share,
    )
    for parameter in coverage.unattributed:
        logger.warning("No attribution for %s: %s", parameter.name, parameter.reason)
    for name, others in coverage.tied.items():
        logger.info("%s is also %s: attributed once, as the sum", name, ", ".join(others))
    rates = {record.learning_rate for record in records}
    if len(rates) > 1:
        logger.warning(
            "The learning rate changes between checkpoints (%g to %g); between two checkpoints "
            "the mean of their rates is used for the step mass",
            min(rates),
            max(rates),
        )
    return manifest, left_out, training, queries

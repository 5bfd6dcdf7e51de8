"""Read every checkpoint and a little of the data, and refuse what will not work."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import polars as pl
import torch
from kedro.pipeline import Pipeline

from sourcetrace.audit.identity.made_of import MadeOf
from sourcetrace.checkpoints.folder import Checkpoint, CheckpointFolder
from sourcetrace.core.engine.drift import LARGEST_DRIFT, measure_drifts, segment_ends
from sourcetrace.core.engine.gradient_engine import GradientEngine
from sourcetrace.core.model.examples import Examples
from sourcetrace.core.training.segments import (
    CheckpointRecord,
    Segment,
    number_segments,
    partition,
    partition_at,
)
from sourcetrace.datasets.gradient_cache import GradientCache
from sourcetrace.formats import format_names, format_noun
from sourcetrace.parameters import AttributionParameters, EnsembleParameters, SegmentParameters
from sourcetrace.pipelines.checkpoint_ingest.losses import try_losses
from sourcetrace.pipelines.checkpoint_ingest.tables import digest_data, example_tables
from sourcetrace.pipelines.checkpoint_ingest.training import Training
from sourcetrace.pipelines.shared.device import pick_device
from sourcetrace.pipelines.shared.inputs import remember_data
from sourcetrace.pipelines.shared.set_up import stage_examples
from sourcetrace.pipelines.shared.step import step
from sourcetrace.progress import track
from sourcetrace.schemas.checkpoints import CheckpointManifest, UnattributedParameters
from sourcetrace.tasks import Task

logger = logging.getLogger(__name__)


def ingest_checkpoints(
    checkpoints: CheckpointFolder,
    task: Task,
    segments: SegmentParameters,
    attribution: AttributionParameters,
    ensemble: EnsembleParameters,
) -> tuple[Any, ...]:
    """Check everything, then say what the audit is made of.

    The checkpoints are the first argument: in a run that also trains, the task's data are written
    by the time that they are loaded.

    Returns:
        audit_identity, which is to be saved before the others, because they carry it; what
        `describe_inputs` returns; what `digest_data` returns.
    """
    tables = describe_inputs(checkpoints, task, segments, attribution, ensemble)
    manifest, _, training, queries = tables
    digests, examples = digest_data(task, training, queries)
    remember_data(task, digests)
    identity = {
        "data": MadeOf.data_part(digests),
        "checkpoints": MadeOf.checkpoints_part(dict(manifest.select("file", "sha256").iter_rows())),
    }
    return identity, *tables, digests, examples


def describe_inputs(
    checkpoints: CheckpointFolder,
    task: Task,
    segments: SegmentParameters,
    attribution: AttributionParameters,
    ensemble: EnsembleParameters,
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Check checkpoints against the model and the data against the task.

    Args:
        checkpoints: The folder of checkpoints.
        task: The task they were trained on.
        segments: How many segments, or where they end.
        attribution: The device on which the losses are tried.
        ensemble: Whether dropout masks are tried as well.

    Returns:
        checkpoint_manifest, unattributed_parameters, train_table, query_table.
    """
    model = task.build_model()
    found: list[Checkpoint] = []
    for file in checkpoints.files():
        # The last one's weights alone are kept.
        if found:
            found[-1] = replace(found[-1], state_dict={})
        found.append(checkpoints.load(file, model))
    runs = Training.of_runs(found, checkpoints, model)
    records = [run.records for run in runs]
    # For `auto`, one a stage for now.
    ends, count = segments.ends, 1 if segments.count == "auto" else segments.count
    partitioned = number_segments(
        records, lambda one: partition(one, count) if ends is None else partition_at(one, ends)
    )
    stages = list(dict.fromkeys(segment.stage for segment in partitioned))
    train_table, query_table = example_tables(task, stages)
    training = Examples(task.train_examples(), train_table["example_id"].to_list(), task.collate)
    queries = Examples(task.query_examples(), query_table["example_id"].to_list(), task.collate)
    device = pick_device(attribution.device)
    coverage = try_losses(
        task,
        found[-1],
        training,
        queries,
        device=device,
        segments=partitioned,
        dropout_masks=ensemble.dropout_masks,
        bare=attribution.bare_parameters,
    )
    if ends is None and segments.count == "auto":
        model.to(device)
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
        examples = stage_examples(train_table)
        partitioned = number_segments(
            records, lambda one: _automatic_segments(engine, one, examples)
        )
    number = {name: segment.number for segment in partitioned for name in segment.checkpoints}
    rows = chain.from_iterable(run.rows() for run in runs)
    manifest = CheckpointManifest.frame(
        row
        | {
            "file": checkpoint.file,
            "segment": number[row["checkpoint_id"]],
            "sha256": checkpoint.sha256,
            "bytes": checkpoint.bytes,
            "attributed_share": coverage.share,
        }
        for checkpoint, row in zip(found, rows, strict=True)
    )
    of_runs = f" of {format_noun(len(runs), 'run')}" if len(runs) > 1 else ""
    logger.info(
        "%s%s in %s, steps %d to %d; %.1f %% of the parameters attributed",
        format_noun(len(found), "checkpoint"),
        of_runs,
        format_noun(len(partitioned), "segment"),
        manifest["step"].min(),
        manifest["step"].max(),
        100 * coverage.share,
    )
    if coverage.bare:
        logger.info(
            "Attributed by passes of every example alone, which take longer: %s of no known kind "
            "of layer, %d in all (%s); attribution.bare_parameters: 0 leaves them out",
            format_noun(len(coverage.bare), "parameter"),
            sum(layer.size for layer in coverage.bare),
            format_names([layer.name for layer in coverage.bare]),
        )
    for parameter in coverage.unattributed:
        logger.warning("No attribution for %s: %s", parameter.name, parameter.reason)
    for name, others in coverage.tied.items():
        logger.info("%s is also %s: attributed once, as the sum", name, ", ".join(others))
    for run in runs:
        run.tell_sources()
        run.warn_of_filled_rates()
    left_out = UnattributedParameters.frame(
        (p.name, p.size, p.reason) for p in coverage.unattributed
    )
    return manifest, left_out, train_table, query_table


def _automatic_segments(
    engine: GradientEngine,
    records: Sequence[CheckpointRecord],
    examples: Mapping[str, torch.Tensor],
) -> list[Segment]:
    """Return a run's segments, which end where the gradients drift more than `LARGEST_DRIFT`."""
    drifts = list(measure_drifts(engine, track(records, "Drift"), examples))
    logger.info(
        "Drift of the gradients from checkpoint to checkpoint: %s; a segment ends above %g",
        ", ".join(f"{drift:.2f}" for drift in drifts) or "one checkpoint",
        LARGEST_DRIFT,
    )
    return partition_at(records, segment_ends(records, drifts))


PIPELINE = Pipeline(
    [
        step(
            ingest_checkpoints,
            # Saved in this order: what is written later is of this audit.
            [
                "audit_identity",
                "checkpoint_manifest",
                "unattributed_parameters",
                "train_table",
                "query_table",
                "data_digests",
                "example_digests",
            ],
        )
    ]
)

"""Read every checkpoint and a little of the data, and refuse what will not work."""

import logging
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

import polars as pl

from sourcetrace.audit.identity.data_digest import data_digest, table_digest
from sourcetrace.audit.identity.example_digests import digest_examples
from sourcetrace.audit.identity.made_of import MadeOf
from sourcetrace.checkpoints.folder import Checkpoint, CheckpointFolder
from sourcetrace.core.training.segments import number_segments
from sourcetrace.formats import format_noun
from sourcetrace.parameters import AttributionParameters, EnsembleParameters, SegmentParameters
from sourcetrace.pipelines.checkpoint_ingest.automatic import (
    automatic_segments,
    drift_source,
    placed_segments,
)
from sourcetrace.pipelines.checkpoint_ingest.checks import (
    LabelCheck,
    check_labels,
    check_weights,
    query_table,
    train_table,
    try_losses,
)
from sourcetrace.pipelines.checkpoint_ingest.training import describe_runs
from sourcetrace.pipelines.shared.inputs import remember_data
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
        check_weights(found[-1], model)
    runs = describe_runs(found, checkpoints, model)
    records = [run.records for run in runs]
    partitioned = number_segments(records, lambda one: placed_segments(one, segments))
    training = train_table(task, [segment.stage for segment in partitioned])
    queries = query_table(task)
    check_labels(task, training, "train")
    check_labels(task, queries, "query")
    coverage = try_losses(
        task,
        found[-1],
        training,
        queries,
        attribution.device,
        partitioned,
        dropout_masks=ensemble.dropout_masks,
    )
    if segments.ends is None and segments.count == "auto":
        drifting = drift_source(task, checkpoints, training, coverage, attribution.device)
        partitioned = number_segments(
            records, lambda one: automatic_segments(drifting, one, training)
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
    left_out = UnattributedParameters.frame(
        (p.name, p.size, p.reason) for p in coverage.unattributed
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
    for parameter in coverage.unattributed:
        logger.warning("No attribution for %s: %s", parameter.name, parameter.reason)
    for name, others in coverage.tied.items():
        logger.info("%s is also %s: attributed once, as the sum", name, ", ".join(others))
    for run in runs:
        run.warn_of_filled_rates()
    return manifest, left_out, training, queries


def ingest(
    checkpoints: CheckpointFolder,
    task: Task,
    segments: SegmentParameters,
    attribution: AttributionParameters,
    ensemble: EnsembleParameters,
) -> tuple[Any, ...]:
    """Check everything, then say what the audit is made of.

    Returns:
        audit_identity, which is to be saved before the others, because they carry it; what
        `ingest_checkpoints` returns; what `digest_data` returns.
    """
    tables = ingest_checkpoints(checkpoints, task, segments, attribution, ensemble)
    manifest, _, training, queries = tables
    digests, examples = digest_data(task, training, queries)
    remember_data(task, digests)
    identity = {
        "data": MadeOf.data_part(digests),
        "checkpoints": MadeOf.checkpoints_part(dict(manifest.select("file", "sha256").iter_rows())),
    }
    return identity, *tables, digests, examples


def digest_data(
    task: Task, train_table: pl.DataFrame, query_table: pl.DataFrame
) -> tuple[dict[str, dict[str, Any]], pl.DataFrame]:
    """Digest `training` and `queries`, reading each once; refuse labels in another order.

    Returns:
        data_digests, with the digest, the number of examples and the columns of each (`digest` is
        of the examples, `table` of all columns that the task gives), and example_digests, of every
        training example.
    """
    checks = [LabelCheck(task, train_table, "train"), LabelCheck(task, query_table, "query")]
    training, examples = digest_examples(
        task.train_examples(),
        train_table,
        progress=partial(track, description="Reading training data"),
        inputs_of=getattr(task, "inputs_of", None),
        each=checks[0].see,
    )
    queries = data_digest(
        task.query_examples(),
        query_table,
        progress=partial(track, description="Reading queries"),
        each=checks[1].see,
    )
    for check in checks:
        check.check()
    return {
        name: {
            "digest": digest,
            "table": table_digest(given),
            "rows": table.height,
            "columns": {column: str(kind) for column, kind in table.schema.items()},
        }
        for name, digest, table, given in (
            ("training", training, train_table, task.train_table()),
            ("queries", queries, query_table, task.query_table()),
        )
    }, examples

"""Read every checkpoint and the data, and refuse what will not work."""

import logging
from itertools import chain
from typing import Any

import polars as pl
from kedro.pipeline import Pipeline

from sourcetrace.audit.identity.made_of import MadeOf
from sourcetrace.checkpoints.folder import CheckpointFolder
from sourcetrace.formats import format_names, format_noun
from sourcetrace.parameters import AttributionParameters, EnsembleParameters, SegmentParameters
from sourcetrace.pipelines.checkpoint_ingest.checks import CHECKS
from sourcetrace.pipelines.checkpoint_ingest.examination import Examination
from sourcetrace.pipelines.shared.inputs import remember_data
from sourcetrace.pipelines.shared.step import step
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

    Args:
        checkpoints: The folder of checkpoints.
        task: The task they were trained on.
        segments: How many segments, or where they end.
        attribution: The device on which the losses are tried.
        ensemble: Whether dropout masks are tried as well.

    Returns:
        audit_identity, which is to be saved before the others, because they carry it;
        checkpoint_manifest, unattributed_parameters, train_table, query_table; data_digests and
        example_digests.

    Raises:
        InputError: If one of the checks refuses the inputs.
    """
    examined = Examination(checkpoints, task, segments, attribution, ensemble)
    for check in CHECKS:
        check.run(examined)
    manifest, left_out = describe(examined)
    training, examples = examined.training_digest
    tables = examined.train_table, examined.query_table
    digests = {
        name: {**digest, "columns": {column: str(kind) for column, kind in table.schema.items()}}
        for name, digest, table in zip(
            ("training", "queries"), (training, examined.queries_digest), tables, strict=True
        )
    }
    remember_data(task, digests)
    identity = {
        "data": MadeOf.data_part(digests),
        "checkpoints": MadeOf.checkpoints_part(examined.digests),
    }
    return identity, manifest, left_out, *tables, digests, examples


def describe(examined: Examination) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return checkpoint_manifest and unattributed_parameters of inputs that passed."""
    found, runs, segments = examined.found, examined.runs, examined.segments
    coverage = examined.coverage
    number = {name: segment.number for segment in segments for name in segment.checkpoints}
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
        format_noun(len(segments), "segment"),
        manifest["step"].min(),
        manifest["step"].max(),
        100 * coverage.share,
    )
    if coverage.alone:
        logger.info(
            "Attributed by passes of every example alone, which take longer: %s whose inputs do "
            "not say which example they belong to, or of no known kind, %d parameters in all (%s); "
            "attribution.bare_parameters: null leaves them out",
            format_noun(len(coverage.alone), "layer"),
            sum(layer.size for layer in coverage.alone),
            format_names([layer.name for layer in coverage.alone]),
        )
    for name, others in coverage.tied.items():
        logger.info("%s is also %s: attributed once, as the sum", name, ", ".join(others))
    left_out = UnattributedParameters.frame(
        (p.name, p.size, p.reason) for p in coverage.unattributed
    )
    return manifest, left_out


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

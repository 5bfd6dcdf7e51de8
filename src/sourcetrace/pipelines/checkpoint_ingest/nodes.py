"""Read every checkpoint and the data, and refuse what will not work."""

from typing import Any

from kedro.pipeline import Pipeline

from sourcetrace.audit.identity.made_of import MadeOf
from sourcetrace.checkpoints.folder import CheckpointFolder
from sourcetrace.parameters import AttributionParameters, SegmentParameters
from sourcetrace.pipelines.checkpoint_ingest.checks import CHECKS
from sourcetrace.pipelines.checkpoint_ingest.described import describe
from sourcetrace.pipelines.checkpoint_ingest.examination import Examination
from sourcetrace.pipelines.shared.inputs import remember_data
from sourcetrace.pipelines.shared.step import step
from sourcetrace.tasks import Task


def ingest_checkpoints(
    checkpoints: CheckpointFolder,
    task: Task,
    segments: SegmentParameters,
    attribution: AttributionParameters,
) -> tuple[Any, ...]:
    """Check everything, then say what the audit is made of.

    The checkpoints are the first argument: in a run that also trains, the task's data are written
    by the time that they are loaded.

    Args:
        checkpoints: The folder of checkpoints.
        task: The task they were trained on.
        segments: How many segments, or where they end.
        attribution: The device on which the losses are tried.

    Returns:
        audit_identity, which is to be saved before the others, because they carry it;
        checkpoint_manifest, unattributed_parameters, train_table, query_table; data_digests and
        example_digests.

    Raises:
        InputError: If one of the checks refuses the inputs.
    """
    examined = Examination(checkpoints, task, segments, attribution)
    for check in CHECKS:
        check.run(examined)
    manifest, left_out = describe(
        examined.found, examined.runs, examined.segments, examined.coverage
    )
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

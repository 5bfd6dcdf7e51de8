"""What the ingest accepted, and whether it is still there."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from sourcetrace.audit.identity.data_digest import task_digests
from sourcetrace.audit.identity.made_of import MadeOf
from sourcetrace.checkpoints.folder import CheckpointFolder
from sourcetrace.errors import InputError, with_place
from sourcetrace.files import digest_of
from sourcetrace.tasks.protocol import Task

_READ: dict[int, tuple[Task, Mapping[str, Mapping[str, Any]]]] = {}
"""The task whose data this process has read, by its `id`, and the digests of both sides."""


@dataclass(frozen=True)
class Ingested:
    """The inputs of an audit as the ingest described them.

    Attributes:
        task: The task.
        checkpoints: The folder of checkpoints.
        manifest: A row a checkpoint.
        train_table: A row a training example.
        query_table: A row a query.
        data: Digest of the training data and the queries.
        identity: Digest of all that gradients and curvature depend on.
        made_of: Digests of all that the audit is made of, where it was audited.
        example_digests: `schemas.ExampleDigests`, where the ingest wrote them.
        beside: Digest of all data but the training examples, names of classes among it.
        read: Whether this process has read every training example.
    """

    task: Task
    checkpoints: CheckpointFolder
    manifest: pl.DataFrame
    train_table: pl.DataFrame
    query_table: pl.DataFrame
    data: str
    identity: str
    made_of: MadeOf | None = None
    example_digests: pl.LazyFrame | None = None
    beside: str = ""
    read: bool = True

    def parts_for(self, stage: str) -> dict[str, str]:
        """Return the digests of what a stage depends on, by name."""
        return self.made_of.parts_for(stage) if self.made_of else {"audit": self.identity}

    def unit_parts(self, stage: str) -> dict[str, str]:
        """Return the same without the training examples, and how many may be others."""
        parts = self.parts_for(stage)
        parts.pop("kept_curvature", None)
        return parts | {"data": self.beside} if "data" in parts else parts


def check_inputs(
    # Kedro loads in this order: where nothing was audited, the first says so.
    audit_identity: MadeOf,
    checkpoint_manifest: pl.DataFrame,
    train_table: pl.DataFrame,
    query_table: pl.DataFrame,
    data_digests: Mapping[str, Mapping[str, Any]],
    example_digests: pl.LazyFrame,
    checkpoints: CheckpointFolder,
    task: Task,
    *,
    every_byte: bool = True,
) -> Ingested:
    """Return the inputs, if data and checkpoints are those that the ingest described.

    Every byte is read, the data once a process. Where the process that started the audit has done
    so, another may read all but the training examples, if these can be told apart, and compare them
    as it reads them.

    Raises:
        InputError: If they are others.
    """
    if MadeOf.checkpoints_part(checkpoints.digests()) != audit_identity.checkpoints:
        raise InputError(
            "The checkpoints are not those that checkpoint_ingest described: files, or the JSON "
            "beside them, were added, removed or changed. Run the audit from its first stage "
            "again, `kedro run --pipelines audit`."
        )
    every_byte = every_byte or not can_tell_apart(task, example_digests)
    if every_byte:
        if id(task) not in _READ:
            remember_data(task, _digests_now(task))
        digests = _READ[id(task)][1]
    else:
        now = _digests_now(task, every_example=False)
        digests = {
            side: {"digest": one.get("digest"), **now[side]} for side, one in data_digests.items()
        }
    if MadeOf.data_part(digests) != audit_identity.data:
        raise InputError(
            "The data are not those that checkpoint_ingest described: inputs, labels, a column "
            "of a table or the files of the task's model changed since then, or come out "
            "otherwise at each reading. Run the audit "
            "from its first stage again, `kedro run --pipelines audit`; take random augmentation "
            "out of the task."
        )
    return Ingested(
        task,
        checkpoints,
        checkpoint_manifest,
        train_table,
        query_table,
        audit_identity.data,
        audit_identity.digest_for("gradient_extraction"),
        audit_identity,
        example_digests,
        # Predictions have the classes' names, and examples their numbers alone.
        digest_of([_without_training(digests), getattr(task, "label_names", None)]),
        every_byte,
    )


def can_tell_apart(task: Task, example_digests: pl.LazyFrame | None) -> bool:
    """Return whether all that counts of every training example is in its digests.

    Not where there are none, or the task says what of an example counts (`inputs_of`), which need
    not be all that passes read.
    """
    if example_digests is None or hasattr(task, "inputs_of"):
        return False
    unknown = example_digests.lazy().select(pl.col("input_digest").is_null().any())
    return not unknown.collect().item()


def _without_training(digests: Mapping[str, Mapping[str, Any]]) -> str:
    # How examples are joined is told by the queries' batch.
    return MadeOf.data_part({**digests, "training": {"model": digests["training"].get("model")}})


def _digests_now(task: Task, *, every_example: bool = True) -> Mapping[str, Mapping[str, Any]]:
    try:
        return task_digests(task, every_example=every_example)
    except InputError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise InputError(
            "The data that checkpoint_ingest described cannot be read any more: "
            f"{with_place(error)}. Put back what was there, or run the audit from its first stage "
            "again, `kedro run --pipelines audit`."
        ) from error


def remember_data(task: Task, digests: Mapping[str, Mapping[str, Any]]) -> None:
    """Keep what a task's data were, so that the same process need not read them again."""
    _READ.clear()
    _READ[id(task)] = (task, digests)

"""Tell MLflow of an audit: the history has its row first, and what is told twice is there once.

On the run there are data sets and checkpoints as inputs, and metrics against both. Everything is
looked up before it is written, so that writing twice leaves one of each.
"""

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelInput
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import (
    MLFLOW_DATASET_CONTEXT,
    MLFLOW_MODEL_IS_EXTERNAL,
    MLFLOW_RUN_NOTE,
)

from sourcetrace.tracking.history.audit_log import AuditHistory
from sourcetrace.tracking.lineage.model_version import AuditedVersion
from sourcetrace.tracking.lineage.record import (
    CLOSING,
    MATCHES,
    OPENING,
    AuditRecord,
    CheckpointFile,
    DataRecord,
)

logger = logging.getLogger(__name__)

TRAINING_DATA = "audited_training_data"
QUERIES = "audited_queries"
"""Names of the data-set inputs; never `training`, which is what a training run used."""

CHECKPOINT_DIGEST = "sourcetrace.checkpoint_sha256"
"""Tag by which a checkpoint's logged model is found again."""


def append_row(log: Path, record: AuditRecord, version: AuditedVersion | None) -> dict[str, Any]:
    """Return the audit's row of the history, added where it is not there.

    A further row is added where more is known than the one that is there says: the version's
    number, or that the training data was exchanged.

    Args:
        log: The history of audits.
        record: The audit.
        version: The audited version, where it is known.
    """
    status = record.final_status(matches=_matches(record, version))
    own = _rows_of(AuditHistory(log).read(), record)
    if own and own[-1]["status"] == status and (not version or own[-1]["model_version"]):
        return own[-1]
    model = version or record.model
    training, queries = record.training_data, record.query_data
    return AuditHistory(log).append(
        {
            "at": record.at,
            "run_id": record.run_id,
            "model_name": model.name if model else None,
            "model_version": model.version if model else None,
            "status": status,
            "trust": record.trust_status,
            "suspect_fraction": record.suspect_fraction,
            "training_digest": training.digest if training else None,
            "query_digest": queries.digest if queries else None,
            "report_sha256": record.report_sha256,
        }
    )


def publish_audit(client: MlflowClient, record: AuditRecord, *, log: Path, run_id: str) -> None:
    """Write an audit's lineage; a version that was audited later is not written to.

    Args:
        client: Of the server.
        record: The audit.
        log: The history of audits.
        run_id: Of the run on the server; the history may have it by another id.

    Raises:
        InputError: If the version that the audit was to be of does not exist.
    """
    version = AuditedVersion.find(client, record.model, run_id=run_id)
    before = AuditHistory(log).read()
    row = append_row(log, record, version)
    own = _rows_of(before, record)
    later = [
        one
        for one in before
        if version
        and (one["model_name"], one["model_version"]) == (version.name, version.version)
        # One that was killed before it had a row has but the clock to be placed by.
        and (one["sequence"] > own[-1]["sequence"] if own else one["at"] > record.at)
    ]
    record = replace(record, run_id=run_id)
    matches = _matches(record, version)
    status = record.final_status(matches=matches)
    writes = None if later else version
    if writes is not None:
        writes.mark_running(client, status=status)
    if version is not None and record.training_data is not None:
        version.warn_of_mismatch(record.training_data.digest)
    _write_run_lineage(client, record, version)
    tags = {
        "lineage.data_matches": MATCHES[matches],
        "audit.status": status,
        "audit.log_hash": row["hash"],
    }
    if version is not None:
        tags["audit.model_version"] = f"{version.name} version {version.version}"
    run = client.get_run(record.run_id)
    note = run.data.tags.get(MLFLOW_RUN_NOTE, "")
    if not note or (note.startswith(OPENING) and note.endswith(CLOSING)):
        tags[MLFLOW_RUN_NOTE] = record.card(
            status=status, data_matches=matches, experiment_id=run.info.experiment_id
        )
    for key, value in tags.items():
        client.set_tag(record.run_id, key, value)
    known = run.data.metrics
    if matches is not None and known.get("lineage.data_matches") != float(matches):
        client.log_metric(record.run_id, "lineage.data_matches", float(matches))
    if writes is not None and not writes.write(client, record, status=status):
        logger.warning(
            "The description of %s version %s has no room for the audit's card: shorten it to "
            "fewer than 4,700 characters. Its tags say what the card would.",
            writes.name,
            writes.version,
        )


def _rows_of(rows: list[dict[str, Any]], record: AuditRecord) -> list[dict[str, Any]]:
    return [row for row in rows if (row["run_id"], row["at"]) == (record.run_id, record.at)]


def _matches(record: AuditRecord, version: AuditedVersion | None) -> bool | None:
    return record.data_matches(version.training_digest if version else None)


def _write_run_lineage(
    client: MlflowClient, record: AuditRecord, version: AuditedVersion | None
) -> None:
    """Write the inputs and the headline metrics of an audit.

    Args:
        client: Of the server that has the run.
        record: The audit.
        version: The audited version, where it is known.
    """
    run = client.get_run(record.run_id)
    experiment = run.info.experiment_id
    audited, trained = (version.model_id, version.training_run) if version else (None, None)
    models = [_checkpoint_model(client, experiment, one, trained) for one in record.checkpoints]
    inputs = run.inputs
    known_models = {one.model_id for one in inputs.model_inputs} if inputs else set()
    known_data = {
        (one.dataset.name, one.dataset.digest) for one in (inputs.dataset_inputs if inputs else [])
    }
    wanted = [*models, *([audited] if audited else [])]
    data = [
        _dataset_input(name, one, record.task)
        for name, one in ((TRAINING_DATA, record.training_data), (QUERIES, record.query_data))
        if one is not None and (name, one.digest) not in known_data
    ]
    missing = [LoggedModelInput(model_id) for model_id in wanted if model_id not in known_models]
    if data or missing:
        client.log_inputs(record.run_id, datasets=data, models=missing)
    subject = audited or (models[-1] if models else None)
    if subject is not None:
        _log_metrics(client, record, subject, known=run.data.metrics)


def _log_metrics(
    client: MlflowClient, record: AuditRecord, model_id: str, *, known: Mapping[str, float]
) -> None:
    data = record.training_data
    against: dict[str, Any] = {"model_id": model_id}
    if data is not None:
        against |= {"dataset_name": TRAINING_DATA, "dataset_digest": data.digest}
    ended = int(datetime.fromisoformat(record.at).timestamp() * 1000)
    headlines = {
        "audit.suspect_share": record.suspect_fraction,
        "audit.relabel_suggestions": float(record.relabel),
        "audit.attributed_share": record.attributed_share,
    }
    for name, value in headlines.items():
        # The point that is there already, if it is: with its time the run keeps one point.
        points = client.get_metric_history(record.run_id, name) if name in known else []
        same = [point for point in points if point.value == value]
        time, step = (same[0].timestamp, same[0].step) if same else (ended, 0)
        client.log_metric(record.run_id, name, value, timestamp=time, step=step, **against)


def _checkpoint_model(
    client: MlflowClient, experiment: str, checkpoint: CheckpointFile, training_run: str | None
) -> str:
    """Return the id of a checkpoint's logged model, made if there is none yet."""
    model = _find_checkpoint(client, experiment, checkpoint)
    if model is None:
        # What the fluent create_external_model does, without asking for the active run: the audit
        # did not make the checkpoint, and must not be shown as its source.
        made = client.create_logged_model(
            experiment,
            name=re.sub(r"[^\w-]+", "_", f"checkpoint_{checkpoint.id}"),
            source_run_id=training_run,
            model_type="checkpoint",
            params={
                "step": str(checkpoint.step),
                "stage": checkpoint.stage,
                "optimizer": checkpoint.optimizer,
                **({"training_run": checkpoint.run} if checkpoint.run else {}),
            },
            tags={CHECKPOINT_DIGEST: checkpoint.sha256, MLFLOW_MODEL_IS_EXTERNAL: "true"},
        )
        # Another machine's audit may have made it in between: the first stays.
        model = _find_checkpoint(client, experiment, checkpoint) or made
        if model.model_id != made.model_id:
            client.delete_logged_model(made.model_id)
    if str(model.status) != "READY":
        # Made just now, or by a run that was killed before this line.
        client.finalize_logged_model(model.model_id, "READY")
    model_id: str = model.model_id
    return model_id


def _find_checkpoint(client: MlflowClient, experiment: str, checkpoint: CheckpointFile) -> Any:
    """Return the oldest logged model of a checkpoint; None where there is none."""
    found = client.search_logged_models(
        [experiment], filter_string=f"tags.`{CHECKPOINT_DIGEST}` = '{checkpoint.sha256}'"
    )
    return min(found, key=lambda one: (one.creation_timestamp, one.model_id), default=None)


def _dataset_input(name: str, data: DataRecord, task: str) -> DatasetInput:
    dataset = Dataset(
        name=name,
        digest=data.digest,
        source_type="code",
        # The class alone: a path or an argument could hold a password.
        source=json.dumps({"tags": {"task": task}}),
        schema=json.dumps(
            {
                "mlflow_colspec": [
                    {"type": _column_type(kind), "name": column, "required": True}
                    for column, kind in data.columns.items()
                ]
            }
        ),
        profile=json.dumps({"num_rows": data.rows}),
    )
    return DatasetInput(dataset, tags=[InputTag(MLFLOW_DATASET_CONTEXT, "audit")])


def _column_type(polars_type: str) -> str:
    if polars_type.startswith(("Int", "UInt")):
        return "long"
    if polars_type.startswith("Float"):
        return "double"
    return "boolean" if polars_type == "Boolean" else "string"

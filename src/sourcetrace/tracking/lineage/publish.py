"""Tell MLflow of an audit: the history has its row first, and what is told twice is there once."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlflow.tracking import MlflowClient

from sourcetrace.tracking.history.audit_log import AuditEntry, AuditHistory
from sourcetrace.tracking.lineage.model_version import AuditedVersion
from sourcetrace.tracking.lineage.record import MATCHES, AuditRecord
from sourcetrace.tracking.lineage.run_lineage import write_run_lineage

logger = logging.getLogger(__name__)


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
        AuditEntry(
            at=record.at,
            run_id=record.run_id,
            model_name=model.name if model else None,
            model_version=model.version if model else None,
            status=status,
            trust=record.trust_status,
            suspect_fraction=record.suspect_fraction,
            training_digest=training.digest if training else None,
            query_digest=queries.digest if queries else None,
            report_sha256=record.report_sha256,
        ),
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
    on_server = replace(record, run_id=run_id)
    _write(client, on_server, version, log_hash=row["hash"], current=not later)


def _rows_of(rows: list[dict[str, Any]], record: AuditRecord) -> list[dict[str, Any]]:
    return [row for row in rows if (row["run_id"], row["at"]) == (record.run_id, record.at)]


def _matches(record: AuditRecord, version: AuditedVersion | None) -> bool | None:
    return record.data_matches(version.training_digest if version else None)


def _write(
    client: MlflowClient,
    record: AuditRecord,
    version: AuditedVersion | None,
    *,
    log_hash: str,
    current: bool,
) -> None:
    """Write to the run, and to the version where no later audit of it is known."""
    matches = _matches(record, version)
    status = record.final_status(matches=matches)
    writes = version if current else None
    if writes is not None:
        writes.mark_running(client, status=status)
    if version is not None and record.training_data is not None:
        version.warn_of_mismatch(record.training_data.digest)
    write_run_lineage(
        client,
        record,
        audited_model=version.model_id if version else None,
        training_run=version.training_run if version else None,
    )
    tags = {
        "lineage.data_matches": MATCHES[matches],
        "audit.status": status,
        "audit.log_hash": log_hash,
    }
    if version is not None:
        tags["audit.model_version"] = f"{version.name} version {version.version}"
    for key, value in tags.items():
        client.set_tag(record.run_id, key, value)
    known = client.get_run(record.run_id).data.metrics
    if matches is not None and known.get("lineage.data_matches") != float(matches):
        client.log_metric(record.run_id, "lineage.data_matches", float(matches))
    if writes is not None and not writes.write(client, record, status=status):
        logger.warning(
            "The description of %s version %s has no room for the audit's card: shorten it to "
            "fewer than 4,700 characters. Its tags say what the card would.",
            writes.name,
            writes.version,
        )

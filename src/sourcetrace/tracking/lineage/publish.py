"""Record an audit: in the local history first, then in MLflow, where it may have to wait."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from mlflow.tracking import MlflowClient

from sourcetrace.audit.identity.data_digest import same_data
from sourcetrace.tracking.history.audit_log import AuditEntry, append_audit, read_audits
from sourcetrace.tracking.lineage.model_version import (
    AuditedVersion,
    data_matches,
    final_status,
    find_version,
    mark_running,
    matches_text,
    write_version,
)
from sourcetrace.tracking.lineage.record import AuditRecord, ModelReference
from sourcetrace.tracking.lineage.run_lineage import write_run_lineage
from sourcetrace.tracking.server.connection import CONNECTION
from sourcetrace.tracking.server.outage import ServerAway, reason_of
from sourcetrace.tracking.server.pending import is_pending, keep_pending, remove_pending, sending

logger = logging.getLogger(__name__)


@contextmanager
def recording(
    client: MlflowClient | None, record: AuditRecord, *, log: Path, pending: Path
) -> Iterator[None]:
    """Append the audit to the history and write its lineage to MLflow, then let its run be ended.

    What cannot be written stays in `pending`, and the log says what sends it later: nothing that
    a server does loses an audit. It stays, too, where the process is killed within the context,
    so that `sourcetrace sync` ends the run which this process had been about to end.

    Args:
        client: Of the tracking server; None where tracking is off.
        record: The audit.
        log: The history of audits.
        pending: File of what MLflow was not told yet.
    """
    if client is None:
        append_audit(log, entry_of(record, None, status=record.status))
        yield
        return
    # First, so that a kill at any later moment leaves it.
    keep_pending(pending, record)
    with sending(pending):
        error = None
        # Otherwise `sourcetrace sync` was there, and sent it.
        if is_pending(pending, record):
            error = _append_and_publish(client, record, log=log)
            _warn_of_rest(error, pending)
        yield
        # An audit that is sent again is none the worse for it.
        with suppress(OSError):
            if error is None:
                remove_pending(pending, record)


def _warn_of_rest(error: Exception | None, pending: Path) -> None:
    # Where the server is away, the connection said so when it was lost.
    if error is not None and not isinstance(error, ServerAway):
        logger.warning(
            "The audit is complete, but MLflow was not told all of it (%s). The rest is kept in "
            "%s; when the server is back, run: %s",
            reason_of(error),
            pending,
            CONNECTION.sync_command,
        )


def _append_and_publish(
    client: MlflowClient, record: AuditRecord, *, log: Path
) -> Exception | None:
    """Return what kept MLflow from being told; the history has its row in any case."""
    version, error = None, None
    try:
        version = find_version(client, record.model, run_id=record.run_id)
    except Exception as raised:
        error = raised
    if version is not None:
        reference = ModelReference(name=version.name, version=version.version)
        record = replace(record, model=reference)
    status = final_status(record, matches=data_matches(version, record))
    row = append_audit(log, entry_of(record, version, status=status))
    if error is None:
        try:
            publish(client, record, version, log_hash=row["hash"])
        except Exception as raised:
            error = raised
    return error


def publish(
    client: MlflowClient,
    record: AuditRecord,
    version: AuditedVersion | None,
    *,
    log_hash: str | None,
    current: bool = True,
) -> None:
    """Write an audit's lineage; again gives the same.

    Args:
        client: Of the tracking server.
        record: The audit.
        version: The audited version, where there is one.
        log_hash: Of the audit's row of the history, for those who verify it.
        current: Whether no later audit of the version is known; only then it is written to.
    """
    matches = data_matches(version, record)
    status = final_status(record, matches=matches)
    writes = version if current else None
    if writes is not None:
        mark_running(client, writes, status=status)
    if version is not None and record.training_data is not None:
        warn_of_mismatch(version, record.training_data.digest)
    write_run_lineage(
        client,
        record,
        audited_model=version.model_id if version else None,
        training_run=version.training_run if version else None,
    )
    tags = {"lineage.data_matches": matches_text(matches), "audit.status": status}
    if version is not None:
        tags["audit.model_version"] = f"{version.name} version {version.version}"
    if log_hash is not None:
        tags["audit.log_hash"] = log_hash
    for key, value in tags.items():
        client.set_tag(record.run_id, key, value)
    if matches is not None:
        _log_once(client, record.run_id, "lineage.data_matches", float(matches))
    if writes is not None and not write_version(client, writes, record, status=status):
        logger.warning(
            "The description of %s version %s has no room for the audit's card: shorten it to "
            "fewer than 4,700 characters. Its tags say what the card would.",
            writes.name,
            writes.version,
        )


def warn_of_mismatch(version: AuditedVersion, digest: str) -> None:
    """Say loudly where a version was trained on other data than an audit's, by its digest."""
    if same_data(version.training_digest, digest) is False:
        logger.warning(
            "LINEAGE: %s version %s was trained on data with digest %s, this audit read %s. The "
            "training data was exchanged since: audit the data that trained the version, or set "
            "tracking.registered_model to the version that was trained on this data.",
            version.name,
            version.version,
            version.training_digest,
            digest,
        )


def entry_of(record: AuditRecord, version: AuditedVersion | None, *, status: str) -> AuditEntry:
    """Return the row of the history for an audit."""
    model = version or record.model
    training, queries = record.training_data, record.query_data
    return AuditEntry(
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
    )


def send_again(
    client: MlflowClient, record: AuditRecord, *, log: Path, run_id: str | None = None
) -> None:
    """Send an audit that waited; a version that was audited later is not written to.

    The history gets a further row where it has none of this audit, or where the server knows what
    was not known: the version's number, or that the training data was exchanged.

    Args:
        client: Of the tracking server.
        record: The audit.
        log: The history of audits, whose rows keep the run's id of this machine.
        run_id: Of the run on the server, where it has another there.

    Raises:
        InputError: If the version that the audit was to be of does not exist.
    """
    on_server = replace(record, run_id=run_id or record.run_id)
    version = find_version(client, record.model, run_id=on_server.run_id)
    status = final_status(record, matches=data_matches(version, record))
    rows = read_audits(log)
    own = [row for row in rows if row["run_id"] == record.run_id and row["at"] == record.at]
    row = own[-1] if own else None
    if row is None or row["status"] != status or (version and row["model_version"] is None):
        row = append_audit(log, entry_of(record, version, status=status))
    later = [
        one
        for one in rows
        if version and (one["model_name"], one["model_version"]) == (version.name, version.version)
        # One that was killed before it had a row has but the clock to be placed by.
        if (one["sequence"] > own[-1]["sequence"] if own else one["at"] > record.at)
    ]
    publish(client, on_server, version, log_hash=row["hash"], current=not later)
    if client.get_run(on_server.run_id).info.status == "RUNNING":
        # Killed while it told the server of its audit: its process would have ended it.
        ended = int(datetime.fromisoformat(record.at).timestamp() * 1000)
        client.set_terminated(on_server.run_id, "KILLED", ended)


def _log_once(client: MlflowClient, run_id: str, name: str, value: float) -> None:
    if client.get_run(run_id).data.metrics.get(name) != value:
        client.log_metric(run_id, name, value)

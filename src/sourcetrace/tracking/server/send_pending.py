"""Send what MLflow was not told of: runs first, then what audits say of them.

Everything is sent in the order in which it came. A server that goes away stops it, and what is left
waits on; what the server refuses waits, too, and the rest is sent. Two who send at once wait for
each other.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from sourcetrace.errors import InputError
from sourcetrace.tracking.lineage.publish import send_again
from sourcetrace.tracking.server.connection import CONNECTION
from sourcetrace.tracking.server.journal import FOLDER, Journal, open_journal, waiting_runs
from sourcetrace.tracking.server.outage import is_outage, reason_of
from sourcetrace.tracking.server.pending import read_pending, remove_pending, sending
from sourcetrace.tracking.server.send_run import send_run

PENDING = "pending_lineage.json"
"""Beside the history of audits."""


@dataclass
class Sent:
    """What came of sending.

    Attributes:
        runs, audits: Numbers of those that were sent.
        writing: Runs that are being written, and wait for their end.
        problems: What was refused, and why, a sentence each.
    """

    runs: int = 0
    audits: int = 0
    writing: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)


def count_pending(*, pending: Path, log: Path) -> int:
    """Return how many runs and audits wait."""
    return len(waiting_runs(log.parent / FOLDER)) + len(read_pending(pending))


def send_pending(
    client: MlflowClient,
    *,
    pending: Path,
    log: Path,
    sent: Sent | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Sent:
    """Send everything that waits beside a history.

    Args:
        client: Of the tracking server.
        pending: File of the audits that wait.
        log: The history of audits, beside which the runs wait.
        sent: What was sent before, to which this is added.
        progress: Called with a line for each that is sent.

    Returns:
        What came of it.

    Raises:
        Exception: What the server's absence raised, see `outage.is_outage`.
    """
    sent = sent or Sent()
    with sending(pending), CONNECTION.only_server():
        journals = _send_runs(client, log.parent / FOLDER, sent, progress)
        try:
            waits = _send_audits(client, pending, log, journals, sent, progress)
            for local_id, journal in journals.items():
                if journal.run.sent and local_id not in waits:
                    journal.discard()
        finally:
            for journal in journals.values():
                journal.close()
    return sent


def _send_runs(
    client: MlflowClient, folder: Path, sent: Sent, progress: Callable[[str], None]
) -> dict[str, Journal]:
    journals: dict[str, Journal] = {}
    try:
        for place in waiting_runs(folder):
            journal = open_journal(place)
            if journal is None:
                sent.writing.add(place.name)
                continue
            journals[place.name] = journal
            before = journal.run.sent
            if _refused(partial(send_run, client, journal), f"Run {place.name}", sent):
                continue
            if not before:
                sent.runs += 1
                progress(f"Run {journal.run.run_id} ({journal.run.name}): sent.")
    except BaseException:
        for journal in journals.values():
            journal.close()
        raise
    return journals


def _send_audits(
    client: MlflowClient,
    pending: Path,
    log: Path,
    journals: dict[str, Journal],
    sent: Sent,
    progress: Callable[[str], None],
) -> set[str]:
    """Send audits whose runs are there, and return the runs of those that are left."""
    left = set()
    for record in read_pending(pending):
        journal = journals.get(record.run_id)
        whole = journal.run.sent if journal else record.run_id not in sent.writing
        run_id = journal.run.run_id if journal else record.run_id
        if not whole or _refused(
            partial(send_again, client, record, log=log, run_id=run_id),
            f"The audit of {record.at}",
            sent,
        ):
            left.add(record.run_id)
            continue
        remove_pending(pending, record)
        sent.audits += 1
        progress(f"Audit of {record.at}: sent.")
    return left


def _refused(send: Callable[[], object], what: str, sent: Sent) -> bool:
    """Send, and return whether the server refused; one that is away is no refusal."""
    try:
        send()
    except (InputError, MlflowException) as error:
        if is_outage(error):
            raise
        sent.problems.append(
            f"{what} still waits: {error if isinstance(error, InputError) else reason_of(error)}"
        )
        return True
    return False

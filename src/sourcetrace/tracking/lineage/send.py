"""Send a run that waits: what it logged, what its audit says, and last how it ended."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from filelock import FileLock
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from sourcetrace.errors import InputError
from sourcetrace.tracking.lineage.model_version import VersionContestedError
from sourcetrace.tracking.lineage.publish import publish_audit
from sourcetrace.tracking.lineage.record import AuditRecord
from sourcetrace.tracking.server.outage import is_outage, reason_of
from sourcetrace.tracking.server.send_run import end_runs, send_runs
from sourcetrace.tracking.server.waiting_run import WaitingRun


@dataclass
class Sent:
    """What came of sending.

    Attributes:
        runs: Number of those that were sent.
        writing: Names of those that are being written, and wait for their end.
        problems: What was refused, and why, a sentence each.
    """

    runs: int = 0
    writing: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def send(server: MlflowClient, run: WaitingRun, *, abandoned: bool = False) -> str:
    """Send a run, forget it, and return its id on the server.

    Sending twice adds nothing; sending that broke off goes on.

    Args:
        server: Client of the server, or of the local file that MLflow writes to.
        run: The run, which is held.
        abandoned: Whether its process is gone, and cannot end it in a local file any more.

    Raises:
        InputError: If the run, or the version that was audited, is not on the server.
        Exception: What the server's absence or refusal raised, see `outage.is_outage`.
    """
    # One at a time: whoever is second sees the first one's row of the history.
    with FileLock(run.folder.with_name("sending.lock")):
        runs = send_runs(server, MlflowClient(run.store, run.store)) if run.has_store else []
        run_id = runs[0][1] if runs else ""
        if (kept := run.audit()) is not None:
            log, content = kept
            record = AuditRecord.from_json(content)
            run_id = run_id or record.run_id
            publish_audit(server, record, log=log, run_id=run_id)
            if abandoned and not runs and server.get_run(run_id).info.status == "RUNNING":
                at = datetime.fromisoformat(record.at).timestamp()
                server.set_terminated(run_id, "KILLED", int(at * 1000))
        end_runs(server, runs, last_sign=run.last_sign if runs else 0)
        run.discard()
    return run_id


def send_all(
    server: MlflowClient, root: Path, *, progress: Callable[[str], None] = lambda _: None
) -> Sent:
    """Send all runs that wait in a folder, oldest first; two who do wait for each other.

    Args:
        server: Client of the server.
        root: Beside the history of audits.
        progress: Called with a line for each that is sent.

    Raises:
        Exception: What the server's absence raised, see `outage.is_outage`. What it refuses waits
            on, and the rest is sent.
    """
    sent = Sent()
    if not WaitingRun.folders(root):
        return sent
    with FileLock(root / "sync.lock"):
        for folder in WaitingRun.folders(root):
            run = WaitingRun.open(folder)
            if run is None:
                sent.writing += [folder.name] if folder in WaitingRun.folders(root) else []
                continue
            try:
                run_id = send(server, run, abandoned=True)
            except (InputError, MlflowException, VersionContestedError) as error:
                if is_outage(error):
                    raise
                said = reason_of(error) if isinstance(error, MlflowException) else error
                sent.problems.append(f"Run {folder.name} still waits: {said}")
            else:
                sent.runs += 1
                progress(f"Run {run_id}: sent.")
            finally:
                run.close()
    return sent

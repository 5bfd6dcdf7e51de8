"""Send a run that waits: what it logged, what its audit says, and last how it ended."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Self

from filelock import FileLock
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from sourcetrace.errors import InputError
from sourcetrace.tracking.lineage.publish import publish_audit
from sourcetrace.tracking.lineage.record import AuditRecord
from sourcetrace.tracking.server.outage import is_outage, reason_of
from sourcetrace.tracking.server.send_run import TrackingServer
from sourcetrace.tracking.server.waiting_run import WaitingRun


class Sender:
    """Sends runs, and counts what came of it.

    Attributes:
        runs: Number of those that were sent.
        writing: Names of those that are being written, and wait for their end.
        problems: What was refused, and why, a sentence each.

    Args:
        server: Client of the server, or of the local file that MLflow writes to.
        progress: Called with a line for each run that is sent of several.
    """

    def __init__(
        self, server: MlflowClient, *, progress: Callable[[str], None] = lambda _: None
    ) -> None:
        self._server, self._progress = server, progress
        self.runs = 0
        self.writing: list[str] = []
        self.problems: list[str] = []

    def send(self, run: WaitingRun, *, abandoned: bool = False) -> str:
        """Send a run, forget it, and return its id on the server.

        Sending twice adds nothing; sending that broke off goes on.

        Args:
            run: The run, which is held.
            abandoned: Whether its process is gone, and cannot end it in a local file any more.

        Raises:
            InputError: If the run, or the version that was audited, is not on the server.
            Exception: What the server's absence or refusal raised, see `outage.is_outage`.
        """
        # One at a time: whoever is second sees the first one's row of the history.
        with FileLock(run.folder.with_name("sending.lock")):
            sender = TrackingServer(self._server)
            runs = sender.send_runs(MlflowClient(run.store, run.store)) if run.has_store else []
            run_id = runs[0][1] if runs else ""
            if (kept := run.audit()) is not None:
                log, content = kept
                record = AuditRecord.from_json(content)
                run_id = run_id or record.run_id
                publish_audit(self._server, record, log=log, run_id=run_id)
                if abandoned and not runs:
                    self._end(run_id, at=record.at)
            sender.end_runs(runs, last_sign=run.last_sign if runs else 0)
            run.discard()
        return run_id

    def send_all(self, *roots: Path) -> Self:
        """Send all runs that wait in folders, oldest first; two who do wait for each other.

        Args:
            roots: Beside the histories of audits.

        Raises:
            Exception: What the server's absence raised, see `outage.is_outage`. What it refuses
                waits on, and the rest is sent.
        """
        for root in roots:
            if WaitingRun.folders(root):
                with FileLock(root / "sync.lock"):
                    for folder in WaitingRun.folders(root):
                        self._send_abandoned(folder)
        return self

    def _send_abandoned(self, folder: Path) -> None:
        run = WaitingRun.open(folder)
        if run is None:
            self.writing += [folder.name] if folder in WaitingRun.folders(folder.parent) else []
            return
        try:
            self._progress(f"Run {self.send(run, abandoned=True)}: sent.")
            self.runs += 1
        except (InputError, MlflowException) as error:
            if is_outage(error):
                raise
            said = reason_of(error) if isinstance(error, MlflowException) else error
            self.problems.append(f"Run {folder.name} still waits: {said}")
        finally:
            run.close()

    def _end(self, run_id: str, *, at: str) -> None:
        if self._server.get_run(run_id).info.status == "RUNNING":
            ended = int(datetime.fromisoformat(at).timestamp() * 1000)
            self._server.set_terminated(run_id, "KILLED", ended)

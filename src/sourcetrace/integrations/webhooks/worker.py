"""Runs the audits that wait, one at a time, each in a process of its own."""

import logging
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence

from sourcetrace.integrations.webhooks.events import RequestedAudit
from sourcetrace.integrations.webhooks.queue import AuditQueue

logger = logging.getLogger(__name__)

SECRET_VARIABLE = "SOURCETRACE_WEBHOOK_SECRET"  # noqa: S105, a name

_POLL_SECONDS = 0.5
_PATIENCE_SECONDS = 20.0


class AuditWorker(threading.Thread):
    """Takes audits from the queue until it is stopped.

    An audit waits by itself for another run of its project.

    Args:
        queue: Where they wait.
        command: Returns the command of an audit, run without a shell and without the secret.
    """

    def __init__(
        self, queue: AuditQueue, command: Callable[[RequestedAudit], Sequence[str]]
    ) -> None:
        super().__init__(name="audits")
        self._queue, self._command = queue, command
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Interrupt the audit that runs, which waits again, and end the thread."""
        self._stopping.set()
        self.join()

    def run(self) -> None:
        """Run one audit after the other; an audit's failure is its own."""
        while not self._stopping.is_set():
            try:
                audit = self._queue.take()
                if audit is None:
                    self._stopping.wait(_POLL_SECONDS)
                else:
                    self._run(audit)
            except Exception:
                logger.exception("The next audit could not be started or recorded.")
                self._stopping.wait(_PATIENCE_SECONDS)

    def _run(self, audit: RequestedAudit) -> None:
        logger.info("Auditing %s version %s.", *audit)
        try:
            code = self._exit_code(self._command(audit))
        except OSError:
            # No memory for a process, for example: it is tried again.
            self._queue.put_back()
            raise
        if code is None:
            self._queue.put_back()
            logger.warning("Audit of %s version %s: interrupted; it waits.", *audit)
        else:
            self._queue.end()
            logger.info("Audit of %s version %s: exit code %s.", *audit, code)

    def _exit_code(self, command: Sequence[str]) -> int | None:
        """Return the exit code; None if it was interrupted because the worker stops."""
        environment = {k: v for k, v in os.environ.items() if k != SECRET_VARIABLE}
        with subprocess.Popen(  # noqa: S603, no shell; of the message it has the version's digits
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            # A Ctrl-C in a terminal reaches this process alone, which ends the audit itself.
            start_new_session=True,
        ) as process:
            while True:
                try:
                    return process.wait(timeout=_POLL_SECONDS)
                except subprocess.TimeoutExpired:
                    if self._stopping.is_set():
                        _end(process)
                        return None


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Interrupt an audit, with what it started; kill it if it does not end."""
    for number in (signal.SIGINT, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(timeout=_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            pass
        return

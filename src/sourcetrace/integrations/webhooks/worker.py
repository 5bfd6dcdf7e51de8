"""Runs the audits that wait, one at a time, each in a process of its own."""

import fcntl
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import yaml

from sourcetrace.errors import InputError
from sourcetrace.integrations.webhooks.events import RequestedAudit
from sourcetrace.integrations.webhooks.queue import AuditQueue

logger = logging.getLogger(__name__)

SECRET_VARIABLE = "SOURCETRACE_WEBHOOK_SECRET"  # noqa: S105, a name
VERSION_PLACE = "{version}"

_POLL_SECONDS = 0.5
_PATIENCE_SECONDS = 20.0
_FIT_NAME = re.compile(r"[^\W\d][\w.-]*")


class AuditWorker(threading.Thread):
    """Takes audits from the queue until it is stopped.

    Args:
        queue: Where they wait.
        command: Returns the command of an audit.
        lock: File that is locked while an audit runs; `flock` and cron use the same.
    """

    def __init__(
        self,
        queue: AuditQueue,
        command: Callable[[RequestedAudit], Sequence[str]],
        *,
        lock: Path,
    ) -> None:
        super().__init__(name="audits")
        self._queue, self._command, self._lock = queue, command, lock
        self._stopping = threading.Event()
        lock.parent.mkdir(parents=True, exist_ok=True)

    def stop(self) -> None:
        """Interrupt the audit that runs, which waits again, and end the thread."""
        self._stopping.set()

    def run(self) -> None:
        """Run one audit after the other; an audit's failure is its own."""
        while not self._stopping.is_set():
            try:
                if not self._run_next():
                    self._stopping.wait(_POLL_SECONDS)
            except Exception:
                logger.exception("The next audit could not be started or recorded.")
                self._stopping.wait(_PATIENCE_SECONDS)

    def _run_next(self) -> bool:
        with self._lock.open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            queued = self._queue.take()
            if queued is None:
                return False
            audit = queued.audit
            logger.info("Auditing %s version %s.", audit.model, audit.version)
            try:
                code = self._run_to_its_end(self._command(audit), lock=lock.fileno())
            except OSError:
                # No memory for a process, for example: it is tried again.
                self._queue.put_back(queued)
                raise
        if code is None:
            self._queue.put_back(queued)
            logger.warning(
                "Audit of %s version %s: interrupted; it waits.", audit.model, audit.version
            )
            return True
        self._queue.end(queued, exit_code=code)
        logger.info("Audit of %s version %s: exit code %s.", audit.model, audit.version, code)
        return True

    def _run_to_its_end(self, command: Sequence[str], *, lock: int) -> int | None:
        """Return the exit code; None if it was interrupted because the worker stops.

        Args:
            command: Run without a shell, and without the secret of this process.
            lock: Descriptor of the locked file. The audit inherits it, and so keeps the lock if
                this process is killed.
        """
        environment = {k: v for k, v in os.environ.items() if k != SECRET_VARIABLE}
        with subprocess.Popen(  # noqa: S603, no shell; of the message it has the version's digits
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            pass_fds=(lock,),
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


def audit_command(
    audit: RequestedAudit,
    *,
    models: Mapping[str, str | None],
    params: Sequence[str] = (),
    pipelines: str | None = None,
) -> list[str]:
    """Return the command that audits a version in the current folder's project.

    Args:
        audit: Which version; its model is one of `models`.
        models: Registered model -> configuration environment.
        params: Further parameters, `{version}` standing for the version's number.
        pipelines: What to run, where it is not only the audit.
    """
    environment = models[audit.model]
    given = [
        f"tracking.registered_model.name={audit.model}",
        f"tracking.registered_model.version={audit.version}",
        *(param.replace(VERSION_PLACE, audit.version) for param in params),
    ]
    command = [sys.executable, "-m", "sourcetrace", "audit", "--params", ",".join(given)]
    if environment is not None:
        command += ["--env", environment]
    if pipelines is not None:
        command += ["--pipelines", pipelines]
    return command


def check_model_name(name: str) -> None:
    """Refuse a name that could not be handed on as a parameter, which Kedro reads as YAML.

    Raises:
        InputError: If it is such a name.
    """
    if not _FIT_NAME.fullmatch(name) or yaml.safe_load(name) != name:
        raise InputError(
            f"--model {name!r}: expected a registered model's name that begins with a letter, has "
            "only letters, digits and _ . - in it and is no word of YAML like true or null: the "
            "--params of an audit would take any other apart. Audit this model from a scheduler, "
            "with its name in the parameters."
        )


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Interrupt an audit, with what it started; kill it if it does not end."""
    for number in (signal.SIGINT, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(timeout=_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            continue
        return

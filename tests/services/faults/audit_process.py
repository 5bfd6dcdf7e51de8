"""An audit in a process of its own, which a test pauses, lets go on, or kills.

It is forked from a process that has everything imported, which is most of a small audit's time.
"""

import multiprocessing
import os
import signal

from tests.forked import LIBRARIES
from tests.services.faults.paused_audit import run_command
from tests.services.served_project import ServedProject

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        *LIBRARIES,
        "tests.services.faults.paused_audit",
        "sourcetrace.pipeline_registry",
        "sourcetrace.datasets",
        "sourcetrace.tasks",
    ]
)


class AuditProcess:
    """`sourcetrace audit` in a project, started.

    Args:
        project: Where.
        pause_at: A moment as `paused_audit` describes it; never, if not given.
        clock: Seconds by which its clock is off.
        command: Another one than `audit`.
    """

    def __init__(
        self,
        project: ServedProject,
        *,
        pause_at: str | None = None,
        clock: float = 0.0,
        command: str = "audit",
    ) -> None:
        self._output = project.path / f"{command}_output.txt"
        self._pipe, theirs = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(
            target=run_command,
            args=(
                command,
                project.path,
                project.environment(),
                self._output,
                pause_at,
                clock,
                theirs,
            ),
        )
        self._process.start()
        theirs.close()

    def wait_for_pause(self) -> None:
        """Return when the moment has come.

        Raises:
            RuntimeError: If the process ended before.
        """
        try:
            self._pipe.recv_bytes()
        except EOFError:
            raise RuntimeError(f"The audit ended before its pause:\n{self.text()}") from None

    def go_on(self) -> None:
        """Let a paused audit go on."""
        self._pipe.send_bytes(b".")

    def kill(self) -> None:
        """Kill it where it stands."""
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.join()

    def wait(self, *, seconds: float | None = None) -> int | None:
        """Return its exit code; None if it has not ended in this time."""
        self._process.join(seconds)
        return self._process.exitcode

    def text(self) -> str:
        """Return the end of what it said so far."""
        return self._output.read_text(errors="replace")[-1500:] if self._output.exists() else ""


def audit_once(project: ServedProject, *, clock: float = 0.0) -> int | None:
    """Run an audit to its end and return its exit code."""
    return AuditProcess(project, clock=clock).wait()

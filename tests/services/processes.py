"""Server processes: started on a free port, waited for, ended with their children."""

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

ADDRESS = "127.0.0.1"
_PORTS = range(20_000, 32_000)
"""Below those that outgoing connections get, so that a port is still free after a restart."""

_STARTS_WITHIN = 120.0


class ServerProcess:
    """A server in a process group of its own, whose output goes to a file.

    Args:
        command: Its command line.
        log: Where its output is added.
        is_ready: Whether it answers.
        environment: Added to this process's own.
        user: Who runs it, where that is another one.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path,
        is_ready: Callable[[], bool],
        environment: Mapping[str, str] | None = None,
        user: str | None = None,
    ) -> None:
        self._command, self._log, self._is_ready = command, log, is_ready
        self._environment, self._user = dict(environment or {}), user
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            RuntimeError: If it ends before that, with the end of its output.
        """
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Not the folder of whoever starts it: another user may not be let in.
                cwd="/",
                env=os.environ | self._environment,
                user=self._user,
                group=None if self._user is None else _group_of(self._user),
                extra_groups=None if self._user is None else [],
                start_new_session=True,
            )
        patience = time.monotonic() + _STARTS_WITHIN
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > patience:
                self.end(signal.SIGKILL)
                tail = self._log.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{self._command[0]} does not answer:\n{tail}")
            time.sleep(0.05)

    def end(self, how: signal.Signals) -> None:
        """Send a signal to the server, wait for its end, and kill children that outlive it."""
        if self._process is None:
            return
        group = self._process.pid
        if how == signal.SIGKILL:
            _signal_group(group, how)
        else:
            self._process.send_signal(how)
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            _signal_group(group, signal.SIGKILL)
            self._process.wait()
        _signal_group(group, signal.SIGKILL)
        self._process = None


def free_port() -> int:
    """Return a port of the loopback address that nobody listens at."""
    for port in random.SystemRandom().sample(_PORTS, 100):
        with socket.socket() as trial:
            try:
                trial.bind((ADDRESS, port))
            except OSError:
                continue
        return port
    raise RuntimeError(f"No port of {_PORTS} is free.")


def _group_of(user: str) -> int:
    import pwd

    return pwd.getpwnam(user).pw_gid


def _signal_group(group: int, how: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, how)

"""Orders to processes that somebody else started, in a file of a folder that all of them share.

The first process holds a lock while it lives. What the file says is obeyed only while that lock is
held, so that the file of an earlier attempt is not.
"""

import atexit
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from sourcetrace.errors import InputError
from sourcetrace.files import digest_of, read_optional_json, write_json

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.5
_SECONDS_TO_MEET = 300.0


class OrderFile:
    """Where the first process of a launch says what is to be done; the newest order stands.

    Args:
        folder: That all processes share.
        launch: Names the launch.
    """

    def __init__(self, folder: Path, launch: str) -> None:
        self._begun = time.time()
        self._path = folder / f"{digest_of(launch)}.json"
        self._lock: FileLock | None = None
        self._said: dict[str, Any] = {"number": 0, "order": None, "ended": 0.0}

    def lead(self) -> None:
        """Be the first process, to this process's end.

        Raises:
            InputError: If the folder's file system has no locks.
        """
        name = f"{socket.gethostname()}-{os.getpid()}-{time.time_ns()}.lock"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # No soft lock in its place: that one would outlive its holder.
        self._lock = FileLock(self._path.with_name(name), fallback_to_soft=False)
        try:
            self._lock.acquire()
        except (OSError, NotImplementedError) as error:
            raise _without_locks(self._path.parent, error) from error
        atexit.register(self._end)
        self._say(by=name)

    def give(self, order: Mapping[str, Any]) -> None:
        """Say what is to be done now."""
        self._say(order=order, number=self._said["number"] + 1)

    def follow(self, seconds: float = _SECONDS_TO_MEET) -> Iterator[Mapping[str, Any]]:
        """Yield orders, each when it is given, until the first process has ended in order.

        Args:
            seconds: To wait for the first process.

        Raises:
            InputError: If there is none, or it ends otherwise.
        """
        patience, done = time.monotonic() + seconds, 0
        leader: str | None = None
        while True:
            # Looked at before what is said is read: who ends in order says so while it holds it.
            is_led = leader is not None and _is_held(self._path.with_name(leader))
            said = read_optional_json(self._path) or {"by": "", "ended": 0.0}
            if leader is None and said["by"] and _is_held(self._path.with_name(said["by"])):
                leader, is_led = said["by"], True
            late = leader is None and time.monotonic() > patience
            # One that ended before this process began may be of an earlier run.
            if leader is None and said["ended"] and (late or said["ended"] > self._begun):
                logger.warning("Rank 0 has ended: there is nothing left to do.")
                return
            if late:
                raise InputError(
                    f"Rank 0 was not seen in {self._path.parent} for {seconds:.0f} s. Expected a "
                    "folder that all processes share, on a file system whose locks reach all "
                    "machines, and the same command and conf/ for every rank."
                )
            if leader is not None and said["by"] == leader and said["ended"]:
                return
            if leader is not None and not (is_led and said["by"] == leader):
                raise InputError("Rank 0 is gone; what is done is kept. Start all ranks again.")
            if leader is not None and said["number"] > done:
                done = said["number"]
                yield said["order"]
            time.sleep(_POLL_SECONDS)

    def _say(self, **said: Any) -> None:
        self._said |= said
        write_json(self._path, self._said)

    def _end(self) -> None:
        if self._lock is not None:
            self._say(ended=time.time())
            self._lock.release()
            Path(self._lock.lock_file).unlink(missing_ok=True)
            self._lock = None


def _is_held(lock: Path) -> bool:
    """Return whether a process holds a lock; looking at it keeps nobody else from looking."""
    try:
        with lock.open("rb") as opened:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except OSError as error:
        raise _without_locks(lock.parent, error) from error
    return False


def _without_locks(folder: Path, error: Exception) -> InputError:
    return InputError(
        f"Files in {folder} cannot be locked ({error}), without which several processes cannot "
        "share the work. Put gradient_cache of the catalog on a file system with locks, or take "
        "one process."
    )

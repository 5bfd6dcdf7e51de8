"""A lock between processes that says who holds it, and files that several processes change.

The lock is the operating system's: it ends with the process that holds it, however that ends.
A file beside it says who holds it.
"""

import copy
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sourcetrace.files import read_optional_json, write_json

logger = logging.getLogger(__name__)

RUN_LOCK = "run.lock"
"""Beside the history of audits; held by every run of the project."""


@contextmanager
def shared_json(file: Path) -> Iterator[dict[str, Any]]:
    """Give the JSON object of a file, empty where there is none, and keep what is changed of it.

    Other processes wait meanwhile. What raises changes nothing.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_name(f"{file.name}.lock")):
        content = read_optional_json(file) or {}
        before = copy.deepcopy(content)
        yield content
        if content != before:
            write_json(file, content, indent=1)


class HeldLock:
    """A lock that says who holds it."""

    def __init__(self) -> None:
        self._lock: FileLock | None = None
        self._kept = False

    def acquire(self, path: Path, *, wait: bool) -> bool:
        """Take the lock of a file; that of another file goes back first.

        Args:
            path: Of its file.
            wait: Whether to wait for another holder's end, saying so once.

        Returns:
            Whether it is held now.
        """
        if self._lock is not None and Path(self._lock.lock_file) == path:
            return True
        self._release()
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if not wait:
                return False
            logger.warning("Waiting for %s, which works in this project", self.holder_of(path))
            lock.acquire()
        self._lock = lock
        since = datetime.now().astimezone().isoformat(timespec="seconds")
        # Who holds it is a courtesy: a full disk stops nobody here.
        with suppress(OSError):
            _holder_file(path).write_text(json.dumps({"pid": os.getpid(), "since": since}))
        return True

    @property
    def is_held(self) -> bool:
        """Whether this process holds it."""
        return self._lock is not None

    def release(self) -> None:
        """Give the lock back, unless it is kept."""
        if not self._kept:
            self._release()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Hold what is acquired within until the end: pipelines that belong together."""
        self._kept = True
        try:
            yield
        finally:
            self._kept = False
            self._release()

    @staticmethod
    def holder_of(path: Path) -> str:
        """Return who holds a lock, in words."""
        try:
            holder = json.loads(_holder_file(path).read_text())
            return f"process {holder['pid']} (since {holder['since']})"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"

    def _release(self) -> None:
        if self._lock is not None:
            _holder_file(Path(self._lock.lock_file)).unlink(missing_ok=True)
            self._lock.release()
            self._lock = None


def _holder_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


PROJECT_LOCK = HeldLock()
"""Of this process's runs: all of a project write the same files in data/."""

"""What a task's audit would read, found out in a process of its own.

The task is a user's code: whatever it does, it does not end the command that asks.
"""

import json
import multiprocessing
import sys
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from sourcetrace.errors import InputError


@dataclass(frozen=True)
class _TaskInputs:
    """What `AuditKey.of` wants of a task.

    Attributes:
        data: `training` and `queries` with their digests.
        code: Digest of the task's code.
    """

    data: Mapping[str, Mapping[str, str]]
    code: str


class TaskReader:
    """Reads every task's data once, however many versions are of it."""

    def __init__(self, project: Path) -> None:
        self._project = project
        self._pool: ProcessPoolExecutor | None = None
        self._known: dict[str, _TaskInputs | str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def read(self, specification: Mapping[str, Any]) -> _TaskInputs:
        """Return what an audit of the task would read.

        Raises:
            InputError: If the task cannot be made, or reading its data failed.
        """
        name = json.dumps(specification, sort_keys=True, default=str)
        if name not in self._known:
            self._known[name] = self._ask(specification)
        found = self._known[name]
        if isinstance(found, str):
            raise InputError(found)
        return found

    def _ask(self, specification: Mapping[str, Any]) -> _TaskInputs | str:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                1,
                # A fork of a process in which libraries have threads may hang.
                mp_context=multiprocessing.get_context("spawn"),
                initializer=sys.path.append,
                initargs=(str(self._project),),
            )
        try:
            return self._pool.submit(_read_task_inputs, specification).result()
        except BrokenProcessPool:
            self._close()
            return (
                f"task {specification.get('class')}: the process that read its data died without "
                "a word, as when memory runs out."
            )

    def _close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None


def _read_task_inputs(specification: Mapping[str, Any]) -> _TaskInputs | str:
    """Return what an audit of the task would read, or what went wrong."""
    from sourcetrace.audit.identity.data_digest import task_digests  # noqa: PLC0415
    from sourcetrace.audit.identity.made_of import MadeOf  # noqa: PLC0415
    from sourcetrace.tasks.loading import load_task  # noqa: PLC0415

    try:
        task = load_task(specification)
        return _TaskInputs(task_digests(task), MadeOf.code_of(specification["class"]))
    except InputError as error:
        return str(error)
    # Any error a user's code may raise; not every one can be sent to another process.
    except (Exception, SystemExit) as error:
        kind = type(error).__name__
        return f"task {specification.get('class')}: its data cannot be read: {kind}: {error}"

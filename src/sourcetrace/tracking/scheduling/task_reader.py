"""What a task's audit would read, found out in a process of its own.

The task is a user's code: whatever it does, it does not end the command that asks.
"""

import json
import multiprocessing
import sys
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from sourcetrace.errors import InputError

_Inputs = dict[str, Any]
"""What `AuditKey.of` wants of a task: the data's digests, and that of the task's code."""


class TaskReader:
    """Reads every task's data once, however many versions are of it.

    Args:
        project: The project's folder, in which a task may be.
    """

    def __init__(self, project: Path) -> None:
        self._project = project
        self._known: dict[str, _Inputs | str] = {}

    def read(self, specification: Mapping[str, Any]) -> _Inputs:
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

    def _ask(self, specification: Mapping[str, Any]) -> _Inputs | str:
        # A fork of a process in which libraries have threads may hang.
        spawn, folder = multiprocessing.get_context("spawn"), str(self._project)
        try:
            with ProcessPoolExecutor(
                1, mp_context=spawn, initializer=sys.path.append, initargs=(folder,)
            ) as pool:
                return pool.submit(_read_inputs, specification).result()
        except BrokenProcessPool:
            return (
                f"task {specification.get('class')}: the process that read its data died without "
                "a word, as when memory runs out."
            )


def _read_inputs(specification: Mapping[str, Any]) -> _Inputs | str:
    """Return what an audit of the task would read, or what went wrong."""
    from sourcetrace.audit.identity.data_digest import task_digests  # noqa: PLC0415
    from sourcetrace.audit.identity.made_of import MadeOf  # noqa: PLC0415
    from sourcetrace.tasks.loading import load_task  # noqa: PLC0415

    try:
        task = load_task(specification)
        return {"data": task_digests(task), "code": MadeOf.code_of(specification["class"])}
    except InputError as error:
        return str(error)
    # Any error a user's code may raise; not every one can be sent to another process.
    except (Exception, SystemExit) as error:
        kind = type(error).__name__
        return f"task {specification.get('class')}: its data cannot be read: {kind}: {error}"

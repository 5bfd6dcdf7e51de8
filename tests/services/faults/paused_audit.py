"""`sourcetrace audit` in a process that stops at one moment and waits to be let go on.

A moment is `before NODE`, `write N`: the Nth request, from 0, with which the finished run is
sent to MLflow, or `end of run`: the request after these that ends its run.
"""

import os
import time
from collections.abc import Generator, Mapping
from datetime import datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from kedro.framework.hooks import hook_impl
from mlflow.utils import rest_utils

from sourcetrace import settings
from sourcetrace.__main__ import main
from sourcetrace.hooks import lineage as lineage_hook


class PauseHook:
    """Says that the moment has come, and waits for an answer.

    Args:
        moment: See above; None never comes.
        pipe: To the test.
    """

    def __init__(self, moment: str | None, pipe: Connection) -> None:
        self._moment, self._pipe = moment, pipe
        self._writes = -1
        self._request = rest_utils.http_request
        rest_utils.http_request = self._count_request

    @hook_impl(tryfirst=True)
    def before_node_run(self, node: Any) -> None:
        """Pause before a node."""
        self._reach(f"before {node.name}")

    @hook_impl(wrapper=True, tryfirst=True)
    def after_pipeline_run(self) -> Generator[None, Any, Any]:
        """Count from here on what is written: this hook is the last, and so is called first."""
        self._writes = 0
        return (yield)

    @hook_impl(tryfirst=True)
    def on_pipeline_error(self) -> None:
        """Count from here on, too: a failed gate ends a run this way."""
        self._writes = 0

    def _count_request(self, *arguments: Any, **options: Any) -> Any:
        method = options.get("method") or arguments[2]
        if self._writes >= 0 and method != "GET":
            self._reach(f"write {self._writes}")
            self._writes += 1
            path = options.get("endpoint") or arguments[1]
            if path.endswith("/runs/update"):
                self._reach("end of run")
        return self._request(*arguments, **options)

    def _reach(self, moment: str) -> None:
        if moment == self._moment:
            self._pipe.send_bytes(b".")
            self._pipe.recv_bytes()


def set_clock(seconds: float) -> None:
    """Let this process's clock be off by so many seconds: for MLflow's times and the audit's."""
    true_time = time.time

    class ShiftedDatetime(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + timedelta(seconds=seconds)

    time.time = lambda: true_time() + seconds
    lineage_hook.datetime = ShiftedDatetime  # type: ignore[misc]


def run_command(
    command: str,
    project: Path,
    environment: Mapping[str, str],
    output: Path,
    moment: str | None,
    clock: float,
    pipe: Connection,
) -> None:
    """Run `sourcetrace COMMAND` in a project, and end the process with its exit code."""
    os.setsid()
    os.chdir(project)
    os.environ.update(environment)
    with output.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    if clock:
        set_clock(clock)
    settings.HOOKS = (*settings.HOOKS, PauseHook(moment, pipe))  # type: ignore[assignment]
    main([command])

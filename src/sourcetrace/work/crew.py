"""The other processes of an audit, and how the first one tells them what to do.

Where somebody else started them, orders go through a file. Else they are children, started when a
stage begins with work for several: an order is a line on their standard input, whose end is the
parent's end, however that comes.
"""

import atexit
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import yaml

from sourcetrace.errors import InputError
from sourcetrace.interruption import wait_or_kill
from sourcetrace.work.orders import OrderFile
from sourcetrace.work.ranks import RANK, SIZE

logger = logging.getLogger(__name__)

_COMMAND = (sys.executable, "-m", "sourcetrace", "worker")
_POLL_SECONDS = 0.5
_SECONDS_TO_END = 10


class Crew:
    """The processes that the first one tells what to do; none where no run is prepared."""

    def __init__(self) -> None:
        self._configuration: Callable[[], Mapping[str, Any]] | None = None
        self._file: OrderFile | None = None
        self._children: _Children | None = None
        self._of_run: dict[str, Any] = {"run": 0}

    def prepare(
        self, configuration: Callable[[], Mapping[str, Any]], file: OrderFile | None
    ) -> None:
        """Begin a session.

        Args:
            configuration: Returns what children need to know of it, which YAML can hold.
            file: Where the others were started by somebody else.
        """
        self._configuration, self._file = configuration, file

    def begin(self, inputs: Mapping[str, Mapping[str, str]]) -> None:
        """Begin a run.

        Args:
            inputs: Node -> argument -> name in the catalog.
        """
        self._of_run = {"run": self._of_run["run"] + 1, "inputs": inputs}

    def call(self, stage: str, *, size: int, threads: int) -> None:
        """Have the others do a stage, too.

        Args:
            stage: Its pipeline.
            size: How many processes there are, this one among them.
            threads: Of torch, in each of them.
        """
        order = {**self._of_run, "stage": stage, "threads": threads}
        if self._file is not None:
            self._file.give(order)
        elif self._configuration is not None and "inputs" in order:
            if self._children is not None and self._children.size != size:
                self.dismiss()
            if self._children is None:
                self._children = _Children(size, self._configuration())
            self._children.give(order)

    def dismiss(self) -> None:
        """End the children."""
        if self._children is not None:
            self._children.end()
            self._children = None


class _Children:
    """Processes `sourcetrace worker`, each started once more if it dies."""

    def __init__(self, size: int, configuration: Mapping[str, Any]) -> None:
        try:
            self._first = json.dumps(yaml.safe_dump(dict(configuration)))
        except yaml.YAMLError as error:
            raise InputError(
                "launch.processes or workers: the configuration holds what cannot be told to "
                f"another process ({error}). Expected numbers, texts, lists and mappings, in "
                "catalog, parameters and credentials; or set it to 1, or let torchrun start them."
            ) from error
        self.size, self._last = size, ""
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._died: set[int] = set()
        self._changing, self._ended = threading.Lock(), threading.Event()
        # An interruption calls no hook.
        atexit.register(self.end)

    def give(self, order: Mapping[str, Any]) -> None:
        """Send an order to all, or start them with it."""
        with self._changing:
            begins, self._last = not self._last, json.dumps(order)
            for process in self._processes.values():
                _send(process, self._last)
            if begins:
                self._processes = {rank: self._started(rank) for rank in range(1, self.size)}
                threading.Thread(target=self._watch, daemon=True).start()

    def end(self) -> None:
        """End all of them."""
        atexit.unregister(self.end)
        self._ended.set()
        with self._changing:
            for process in self._processes.values():
                _close(process)
            for process in self._processes.values():
                wait_or_kill(process, _SECONDS_TO_END)

    def _started(self, rank: int) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(  # noqa: S603, our own words
            _COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,  # that of the first process is a program's to read
            env={**os.environ, RANK: str(rank), SIZE: str(self.size)},
        )
        _send(process, self._first, self._last)
        return process

    def _watch(self) -> None:
        """Start once more what died, and say so."""
        while not self._ended.wait(_POLL_SECONDS):
            with self._changing:
                for rank, process in list(self._processes.items()):
                    if process.poll() is not None and not self._ended.is_set():
                        self._replace(rank, process)

    def _replace(self, rank: int, process: "subprocess.Popen[bytes]") -> None:
        again = rank not in self._died
        logger.warning(
            "Rank %d (process %d) ended with exit code %d; %s",
            rank,
            process.pid,
            process.returncode,
            "it is started once more" if again else "the others do its work",
        )
        self._died.add(rank)
        del self._processes[rank]
        _close(process)
        if again:
            self._processes[rank] = self._started(rank)


def _send(process: "subprocess.Popen[bytes]", *lines: str) -> None:
    # One that died is found by who watches.
    with suppress(BrokenPipeError):
        process.stdin.write("".join(f"{one}\n" for one in lines).encode())  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]


def _close(process: "subprocess.Popen[bytes]") -> None:
    with suppress(BrokenPipeError):
        process.stdin.close()  # type: ignore[union-attr]


CREW = Crew()
"""Of this process's runs."""

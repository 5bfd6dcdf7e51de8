"""Ctrl-C and a scheduler's SIGTERM end a run in order, with the exit code that a shell gives.

A signal becomes an exception, so that locks and unfinished files go as after any error.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

BY_SIGNAL = 128 + signal.SIGINT, 128 + signal.SIGTERM
"""Exit codes: 130 and 143."""

_SECONDS = 1
"""Within which signals are one: a terminal reaches the process, and its parent hands it on."""


class Interrupted(SystemExit):
    """The process was told to end; its exit code says by which signal."""


@contextmanager
def ended_in_order() -> Iterator[None]:
    """Raise `Interrupted` where a signal would end the process; a second one ends it at once.

    What somebody else handles or ignores stays so, and Ctrl-C of a Python shell is its own.
    """
    first: list[float] = []

    def end(number: int, _: FrameType | None) -> None:
        if not first:
            first.append(time.monotonic())
            raise Interrupted(128 + number)
        if time.monotonic() - first[0] > _SECONDS:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    usual: dict[int, Any] = {signal.SIGTERM: signal.SIG_DFL}
    if not hasattr(sys, "ps1"):
        usual[signal.SIGINT] = signal.default_int_handler
    own = [number for number, handler in usual.items() if signal.getsignal(number) is handler]
    for number in own:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in own:
            signal.signal(number, usual[number])


def wait_or_kill(process: "subprocess.Popen[bytes]", seconds: float) -> None:
    """Wait for the end of a process that was told to end, and kill it where it does not."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()

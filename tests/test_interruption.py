"""Signals as exceptions."""

import os
import signal
import subprocess
import sys

import pytest

from sourcetrace.interruption import Interrupted, ended_in_order

TWICE = """
import os, signal, sys, time
from sourcetrace.interruption import ended_in_order
with ended_in_order():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        os.kill(os.getpid(), signal.SIGINT)  # of the same moment
        print("in order", flush=True)
        time.sleep(float(sys.argv[1]))
        os.kill(os.getpid(), signal.SIGTERM)
"""


@pytest.mark.parametrize(
    ("number", "usual"),
    [(signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)],
)
def test_a_signal_is_an_error_with_its_exit_code(number, usual):
    before = signal.signal(number, usual)  # which of tests behind `&` is not so
    try:
        with pytest.raises(Interrupted) as ended, ended_in_order():
            os.kill(os.getpid(), number)
        assert ended.value.code == 128 + number
        assert signal.getsignal(number) is usual
    finally:
        signal.signal(number, before)


def test_what_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as behind `&` in a script
    try:
        with ended_in_order():
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(("pause", "code"), [(0, 143), (1.1, -signal.SIGTERM)])
def test_signals_of_a_moment_are_one_and_a_later_one_ends_the_process(pause, code):
    command = [sys.executable, "-c", TWICE, str(pause)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (code, "in order\n")

"""Children do what they are told, and end with their parent, however that ends."""

import json
import multiprocessing
import os
import signal
import sys
import time

import pytest
import yaml

from sourcetrace.errors import InputError
from sourcetrace.work import crew
from sourcetrace.work.crew import Crew

CHILD = """
import os, sys
name = f"{os.environ['SAID']}/{os.environ['SOURCETRACE_RANK']}-{os.getpid()}"
said = open(name, "w", buffering=1)
print(os.environ["SOURCETRACE_PROCESSES"], file=said)
for line in sys.stdin:
    print(line, end="", file=said)
print("end", file=said)
"""
CONFIGURATION = {"catalog": {"a": {1: 2.5e-7, "b": [None, float("inf"), "x\n'y'"]}}}


@pytest.fixture
def said(tmp_path, monkeypatch):
    """Return what reads what children were told: rank and process -> lines."""
    monkeypatch.setattr(crew, "_COMMAND", (sys.executable, "-S", "-c", CHILD))
    monkeypatch.setattr(crew, "_POLL_SECONDS", 0.02)
    monkeypatch.setenv("SAID", str(tmp_path))

    def read():
        found = {}
        for file in sorted(tmp_path.iterdir()):
            rank, process = map(int, file.name.split("-"))
            found[rank, process] = file.read_text().splitlines()
        return found

    return read


@pytest.fixture
def prepared(said):
    """A crew in the middle of a run."""
    crew = Crew()
    crew.prepare(lambda: CONFIGURATION, None)
    crew.begin({"check_inputs": {"task": "task"}})
    yield crew
    crew.dismiss()


def until(holds):
    patience = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < patience
        time.sleep(0.02)


def order(stage):
    return {"run": 1, "inputs": {"check_inputs": {"task": "task"}}, "stage": stage, "threads": 2}


def test_children_are_started_with_the_first_order_and_end_with_the_run(said, prepared):
    assert said() == {}
    prepared.call("first", size=3, threads=2)
    prepared.call("second", size=3, threads=2)
    prepared.dismiss()
    assert [rank for rank, _ in said()] == [1, 2]
    for size, first, *orders, end in said().values():
        assert (size, end) == ("3", "end")
        assert yaml.safe_load(json.loads(first)) == CONFIGURATION
        assert [json.loads(one) for one in orders] == [order("first"), order("second")]


def test_a_child_that_dies_is_started_once_more_with_the_newest_order(said, prepared, caplog):
    prepared.call("first", size=2, threads=2)
    until(lambda: [len(lines) for lines in said().values()] == [3])
    prepared.call("second", size=2, threads=2)
    first = _killed(prepared, said)
    until(lambda: {1: first} != {n: p.pid for n, p in prepared._children._processes.items()} != {})
    _killed(prepared, said)
    until(lambda: len(caplog.records) == 2)
    first, second = caplog.messages
    assert first.endswith("ended with exit code -9; it is started once more")
    assert second.endswith("ended with exit code -9; the others do its work")
    time.sleep(0.1)
    assert len(said()) == 2
    prepared.call("third", size=2, threads=2)  # to nobody


def _killed(crew, said):
    """Kill the child once it knows the newest order."""
    process = crew._children._processes[1].pid
    until(lambda: said().get((1, process), [""])[-1] == json.dumps(order("second")))
    os.kill(process, signal.SIGKILL)
    return process


def test_no_child_outlives_a_parent_that_is_killed(said):
    def parent():
        crew = Crew()
        crew.prepare(lambda: CONFIGURATION, None)
        crew.begin({})
        crew.call("first", size=3, threads=1)
        time.sleep(100)

    process = multiprocessing.get_context("fork").Process(target=parent)
    process.start()
    until(lambda: [len(lines) for lines in said().values()] == [3, 3])
    process.kill()
    until(lambda: all(lines[-1] == "end" for lines in said().values()))
    process.join()


def test_what_yaml_cannot_hold_is_refused(prepared):
    prepared.prepare(lambda: {"catalog": {"type": object()}}, None)
    with pytest.raises(InputError, match="holds what cannot be told to another process"):
        prepared.call("first", size=2, threads=1)


def test_nobody_is_started_where_no_run_has_begun(said):
    Crew().call("first", size=2, threads=1)
    begun = Crew()
    begun.prepare(lambda: CONFIGURATION, None)
    begun.call("first", size=2, threads=1)
    assert said() == {}

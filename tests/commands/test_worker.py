"""A worker does what standard input says, and ends with it, whatever it is at."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml

from sourcetrace.__main__ import main

WORKER = """
import logging, sys, time
from sourcetrace.pipelines import worker
from sourcetrace.progress import track

def hang(setup):
    logging.getLogger("sourcetrace.toy").info("nothing")
    logging.getLogger("sourcetrace.toy").warning("at work on %s", setup)
    for _ in track(range(1), "Toy"):
        time.sleep(100)

def fail(setup):
    raise ValueError("no such thing")

class Run:
    number = 1

    def __init__(self, configuration, order):
        self.catalog = configuration["catalog"]

    def do(self, stage):
        globals()[stage](self.catalog)

worker._Run = Run
logging.getLogger("sourcetrace").setLevel("INFO")

from sourcetrace.commands.worker import worker as command
command([])
"""


def start(stage):
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "SOURCETRACE_RANK": "2", "SOURCETRACE_PROCESSES": "3"},
    )
    first = json.dumps(yaml.safe_dump({"catalog": "a set-up", "path": []}))
    order = json.dumps({"run": 1, "stage": stage})
    process.stdin.write(f"{first}\n{order}\n")
    process.stdin.flush()
    return process


def test_a_worker_ends_with_standard_input_in_the_middle_of_its_work():
    with start("hang") as process:
        assert process.stderr.readline() == "Rank 2: at work on a set-up\n"
        process.send_signal(signal.SIGINT)  # a terminal's, which is for the parent
        time.sleep(0.3)
        assert process.poll() is None
        process.stdin.close()
        assert process.wait(30) == 0
        assert process.stderr.read() == ""


def test_a_worker_says_what_it_failed_of():
    with start("fail") as process:
        said = process.stderr.read()
    assert process.returncode == 2
    assert said.startswith("Rank 2: Traceback")
    assert said.endswith("ValueError: no such thing\n\n")


def test_who_starts_it_by_hand_is_told_how_a_run_does(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["worker"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "A run starts it itself: kedro run" in said
    assert "Traceback" not in said


def test_no_help_names_it(capsys):
    main(["--help"])
    assert "worker" not in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["wörker"])
    assert ended.value.code == 2
    assert "worker" not in capsys.readouterr().err

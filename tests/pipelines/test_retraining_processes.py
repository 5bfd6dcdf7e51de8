"""Retraining in real processes: cached, resumed after a kill, and loud when a process fails."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sourcetrace.errors import InputError
from sourcetrace.interruption import Interrupted
from sourcetrace.pipelines.verification import retraining
from sourcetrace.schemas import VerificationOutcomes
from tests import REPOSITORY
from tests.verifiable import QUERIES, plan_of, retrain, trained

pytestmark = pytest.mark.slow


def test_outcomes_come_from_two_processes_and_are_known_the_second_time(tmp_path, caplog):
    caplog.set_level("INFO")
    plan = plan_of((), (0, 2), (1, 3, 5))
    outcomes = retrain(tmp_path, plan, seeds=2, together=True)
    VerificationOutcomes.validate(outcomes)
    assert outcomes["group"].to_list() == [f"group-{i}" for i in (0, 0, 1, 1, 2, 2)]
    assert outcomes["seed"].to_list() == [0, 1] * 3
    assert all(len(row) == QUERIES for row in outcomes["measurements"])
    # Query 0 is of class 0, of which group-1 lacks two examples.
    first = outcomes["measurements"].list.first().to_list()
    assert first[2] < first[0] < first[4]
    assert len(trained(tmp_path)) == 6
    assert len(set(trained(tmp_path))) == 2
    assert "6 retrainings of up to 20 examples, 0 of them known already" in caplog.text
    assert "5 more on 2 workers take about" in caplog.text

    assert retrain(tmp_path, plan, seeds=2, together=True).equals(outcomes)
    assert len(trained(tmp_path)) == 6
    more = retrain(tmp_path, plan_of((), (0, 2), (4,)), seeds=2, together=True)
    assert more.head(4).equals(outcomes.head(4))
    assert len(trained(tmp_path)) == 8


def test_an_exception_names_the_retraining_and_the_users_line(tmp_path):
    with pytest.raises(InputError) as caught:
        retrain(tmp_path, plan_of((), (0, 2)), trouble="raise")
    message = str(caught.value)
    assert "Retraining group-1, seed 0 failed: RuntimeError: no first example" in message
    source = (REPOSITORY / "tests/verifiable.py").read_text().splitlines()
    line = next(i for i, text in enumerate(source, 1) if "no first example" in text)
    assert f"tests/verifiable.py, line {line})" in message
    assert len(list((tmp_path / "kept").glob("*.json"))) == 1


def test_a_process_that_dies_ends_the_run_with_a_message(tmp_path):
    with pytest.raises(InputError, match=r"died without a word.*lower verification\.workers"):
        retrain(tmp_path, plan_of((), (0, 2), (1,)), trouble="die")
    assert len(list((tmp_path / "kept").glob("*.json"))) >= 1


def test_a_run_that_is_told_to_end_waits_for_no_retraining(tmp_path, monkeypatch):
    def end(futures):
        wait_for(lambda: len(trained(tmp_path)) == 2)
        raise Interrupted(143)

    monkeypatch.setattr(retraining, "as_completed", end)
    with pytest.raises(Interrupted):
        # The second waits for a process that there is not.
        retrain(tmp_path, plan_of((), (0, 2)), workers=1, together=True)
    assert len(list((tmp_path / "kept").glob("*.json"))) == 1


def test_a_killed_run_leaves_no_process_behind_and_is_taken_up_again(tmp_path):
    plan = plan_of(*[(i, i + 1) for i in range(8)])
    code = (
        "from pathlib import Path; from tests.verifiable import plan_of, retrain\n"
        f"retrain(Path({str(tmp_path)!r}), plan_of(*[(i, i + 1) for i in range(8)]), pause=0.4)"
    )
    run = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, stderr=subprocess.DEVNULL)
    kept = tmp_path / "kept"
    wait_for(lambda: len(list(kept.glob("*.json"))) >= 3)
    workers = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    assert len(workers) >= 1
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    wait_for(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))
    known = {file: file.read_bytes() for file in kept.glob("*.json")}
    assert 3 <= len(known) < 8
    begun = len(trained(tmp_path))

    outcomes = retrain(tmp_path, plan, pause=0.4)

    assert outcomes.height == 8
    assert len(trained(tmp_path)) - begun == 8 - len(known)
    assert all(file.read_bytes() == content for file, content in known.items())


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)

"""Retraining in real processes: cached, resumed after a kill, and loud when a process fails."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sourcetrace.errors import InputError
from sourcetrace.interruption import Interrupted, ended_in_order
from sourcetrace.schemas import VerificationOutcomes
from sourcetrace.work.crew import CREW
from sourcetrace.work.ranks import RANK, SIZE
from tests import REPOSITORY
from tests.verifiable import QUERIES, plan_of, retrain, trained

pytestmark = pytest.mark.slow

WHAT = "group", "seed", "measurements", "predicted_labels", "losses"


@pytest.fixture
def others(monkeypatch):
    """Have ranks from 1 on do the same when they are called, as the run's workers do."""
    started = []

    def doing(*args, **arguments):
        def start(stage, *, size, threads):
            assert stage == "verification"
            with monkeypatch.context() as patched:
                for rank in range(1, size):
                    patched.setenv(RANK, str(rank))
                    patched.setenv(SIZE, str(size))
                    spawn = multiprocessing.get_context("spawn")
                    started.append(spawn.Process(target=retrain, args=args, kwargs=arguments))
                    started[-1].start()

        monkeypatch.setattr(CREW, "call", start)
        return started

    yield doing
    for process in started:
        process.kill()
        process.join()


def test_two_processes_give_the_outcomes_of_one_which_are_known_the_second_time(
    tmp_path, caplog, others
):
    caplog.set_level("INFO")
    plan = plan_of((), (0, 2), (1, 3, 5))
    others(tmp_path, plan, seeds=2, together=True)
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
    assert os.getpid() not in trained(tmp_path)
    assert "6 retrainings of up to 20 examples, 0 of them known already" in caplog.text
    assert "5 more on 2 workers take about" in caplog.text

    assert retrain(tmp_path, plan, seeds=2, together=True).equals(outcomes)
    assert len(trained(tmp_path)) == 6
    more = retrain(tmp_path, plan_of((), (0, 2), (4,)), seeds=2, together=True)
    assert more.head(4).equals(outcomes.head(4))
    assert len(trained(tmp_path)) == 8

    (tmp_path / "one").mkdir()
    alone = retrain(tmp_path / "one", plan, seeds=2, workers=1)
    assert alone.select(WHAT).equals(outcomes.select(WHAT))


def test_an_exception_names_the_retraining_and_the_users_line(tmp_path):
    with pytest.raises(InputError) as caught:
        retrain(tmp_path, plan_of((), (0, 2)), trouble="raise")
    message = str(caught.value)
    assert "Retraining group-1, seed 0 failed: RuntimeError: no first example" in message
    source = (REPOSITORY / "tests/verifiable.py").read_text().splitlines()
    line = next(i for i, text in enumerate(source, 1) if "no first example" in text)
    assert f"tests/verifiable.py, line {line})" in message
    assert len(kept(tmp_path)) == 1


def test_a_process_that_dies_ends_the_run_with_a_message(tmp_path):
    with pytest.raises(InputError, match=r"died without a word.*lower verification\.workers"):
        retrain(tmp_path, plan_of((), (0, 2), (1,)), trouble="die")
    assert len(kept(tmp_path)) >= 1


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_is_killed_loses_its_retraining_alone(tmp_path, others, rank):
    plan = plan_of(*[(i, i + 1) for i in range(8)])
    started = others(tmp_path, plan, pause=0.3, together=True)

    def kill():
        wait_for(lambda: len(set(trained(tmp_path))) == 2)  # the second is at work
        worker = started[0].pid
        (apart,) = set(trained(tmp_path)) - {worker}
        os.kill((apart, worker)[rank], signal.SIGKILL)

    killing = threading.Thread(target=kill)
    killing.start()
    outcomes = retrain(tmp_path, plan, pause=0.3, together=True)
    killing.join()
    assert outcomes.height == 8
    assert 8 <= len(trained(tmp_path)) <= 9
    assert len(set(trained(tmp_path))) == 3 - rank


def test_a_training_knows_nothing_of_other_processes(tmp_path, monkeypatch):
    launch = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "a"}
    launch |= {"TORCHELASTIC_RUN_ID": "b", "SLURM_NTASKS": "2", "OF_MINE": "c"}
    for name, value in launch.items():
        monkeypatch.setenv(name, value)
    retrain(tmp_path, plan_of((), (0, 2)))
    seen = [file.read_text().splitlines() for file in (tmp_path / "trained").iterdir()]
    assert [set(names) & launch.keys() for names in seen] == [{"OF_MINE"}] * 2


def test_a_run_that_is_told_to_end_waits_for_no_retraining(tmp_path):
    def end():
        wait_for(lambda: len(trained(tmp_path)) == 2)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=end).start()
    with pytest.raises(Interrupted), ended_in_order():
        # The second waits for a process that there is not.
        retrain(tmp_path, plan_of((), (0, 2)), workers=1, together=True)
    assert len(kept(tmp_path)) == 1


def test_a_killed_run_leaves_no_process_behind_and_is_taken_up_again(tmp_path):
    plan = plan_of(*[(i, i + 1) for i in range(8)])
    code = (
        "from pathlib import Path; from tests.verifiable import plan_of, retrain\n"
        f"retrain(Path({str(tmp_path)!r}), plan_of(*[(i, i + 1) for i in range(8)]), pause=0.4)"
    )
    run = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, stderr=subprocess.DEVNULL)
    wait_for(lambda: len(kept(tmp_path)) >= 3)
    workers = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    assert len(workers) >= 1
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    wait_for(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))
    known = {file: file.read_bytes() for file in kept(tmp_path)}
    assert 3 <= len(known) < 8
    begun = len(trained(tmp_path))

    outcomes = retrain(tmp_path, plan, pause=0.4)

    assert outcomes.height == 8
    assert len(trained(tmp_path)) - begun == 8 - len(known)
    assert all(file.read_bytes() == content for file, content in known.items())


def test_what_is_damaged_is_trained_again_and_what_earlier_versions_kept_is_not(tmp_path):
    plan = plan_of((), (0, 2), (4,))
    outcomes = retrain(tmp_path, plan)
    whole, damaged, gone = kept(tmp_path)
    before = json.loads(whole.read_text())
    del before["losses"]
    for file, text in ((whole, json.dumps(before)), (gone, '{"seconds": 1')):
        key = file.parent.name.split(".")[0]
        (tmp_path / "kept" / f"{key}.json").write_text(text)
        file.unlink()
    damaged.write_text(damaged.read_text()[::-1])
    again = retrain(tmp_path, plan)
    assert len(trained(tmp_path)) == 3 + 2
    assert again.drop("seconds", "losses").equals(outcomes.drop("seconds", "losses"))
    assert again["losses"].null_count() == 1


def kept(root):
    return sorted((root / "kept").glob("retraining/*/outcome.json"))


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)

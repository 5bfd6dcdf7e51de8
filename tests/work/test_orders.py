"""Orders are obeyed while the process that gave them lives, and no longer."""

import json
import multiprocessing
import os
import signal
import time

import pytest

from sourcetrace.errors import InputError
from sourcetrace.work import orders
from sourcetrace.work.orders import OrderFile

FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def _is_quick(monkeypatch):
    monkeypatch.setattr(orders, "_POLL_SECONDS", 0.01)


def _lead(folder, launch, pipe, given):
    file = OrderFile(folder, launch)
    file.lead()
    for one in given:
        file.give({"stage": one})
    pipe.send("gave")
    if pipe.recv() == "end":
        file._end()
    else:
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def leader(tmp_path):
    """Return what starts a first process, and tells it how to end."""
    started = []

    def start(*given, launch="this"):
        here, there = FORK.Pipe()
        process = FORK.Process(target=_lead, args=(tmp_path, launch, there, given))
        process.start()
        started.append(process)
        assert here.recv() == "gave"

        def end(how):
            here.send(how)
            process.join(10)

        return end

    yield start
    for process in started:
        process.kill()
        process.join()


def test_the_newest_order_is_given_once_and_an_orderly_end_ends_it(tmp_path, leader):
    end = leader("first", "second")
    found = OrderFile(tmp_path, "this").follow(5)
    assert next(found) == {"stage": "second"}
    end("end")
    assert list(found) == []
    assert not list(tmp_path.glob("*.lock"))


def test_a_first_process_that_is_killed_ends_the_others_with_an_error(tmp_path, leader):
    end = leader("first")
    found = OrderFile(tmp_path, "this").follow(5)
    assert next(found) == {"stage": "first"}
    end("kill")
    with pytest.raises(InputError, match="Rank 0 is gone"):
        next(found)


def test_an_orderly_end_between_two_looks_is_one(tmp_path, leader, monkeypatch):
    end = leader("first")
    found = OrderFile(tmp_path, "this").follow(5)
    next(found)
    held = orders._is_held

    def looked_late(lock):
        monkeypatch.setattr(orders, "_is_held", held)
        end("end")
        return held(lock)

    monkeypatch.setattr(orders, "_is_held", looked_late)
    assert list(found) == []


def test_who_comes_when_the_first_process_has_ended_has_nothing_to_do(tmp_path, leader, caplog):
    late = OrderFile(tmp_path, "this")
    leader("first")("end")
    assert list(late.follow(5)) == []
    assert "nothing left to do" in caplog.text
    # To one that begins later, it may be of an earlier run: it waits for its own.
    found = OrderFile(tmp_path, "this").follow(5)
    leader("second")
    assert next(found) == {"stage": "second"}
    leader("third")("end")
    assert list(OrderFile(tmp_path, "this").follow(0.1)) == []


def test_orders_of_an_earlier_attempt_are_not_obeyed(tmp_path, leader):
    leader("of the dead")("kill")
    assert json.loads(next(tmp_path.glob("*.json")).read_text())["order"]
    with pytest.raises(InputError, match=r"Rank 0 was not seen in .* for 0 s"):
        next(OrderFile(tmp_path, "this").follow(0.1))
    leader("of the living")
    assert next(OrderFile(tmp_path, "this").follow(5)) == {"stage": "of the living"}


def test_orders_of_another_launch_are_not_obeyed(tmp_path, leader):
    leader("theirs", launch="other")
    with pytest.raises(InputError, match="a folder that all processes share"):
        next(OrderFile(tmp_path, "this").follow(0.1))


def test_another_first_process_is_not_followed_in_the_middle(tmp_path, leader):
    leader("first")
    found = OrderFile(tmp_path, "this").follow(5)
    next(found)
    leader("second")
    with pytest.raises(InputError, match="Rank 0 is gone"):
        next(found)


def test_many_that_look_at_a_free_lock_see_that_it_is_free(tmp_path):
    lock = tmp_path / "free.lock"
    lock.touch()
    with FORK.Pool(4) as pool:
        held = pool.map(_looks_often, [lock] * 4)
    assert not any(held)


def _looks_often(lock):
    end = time.monotonic() + 0.3
    return any(orders._is_held(lock) for _ in iter(lambda: time.monotonic() < end, False))


def test_a_file_system_without_locks_is_refused(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(InputError, match=r"cannot be locked .* or take one process"):
        OrderFile(tmp_path, "this").lead()

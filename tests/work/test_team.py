"""Units are done once, whoever does them, however many they are and whoever dies."""

import logging
import multiprocessing
import os
import signal
import time
from contextlib import ExitStack

import pytest
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st

from sourcetrace.work.ledger import Ledger
from sourcetrace.work.team import Team, in_order, shares
from sourcetrace.work.unit import CorruptUnitError, OtherUnitsError, Unit

_UNITS = [Unit("stage", f"{number:03d}", {"number": str(number)}) for number in range(12)]


def _do(unit, folder):
    time.sleep(0.02)
    (folder / "result").write_text(f"{unit.name} of {unit.identity}")
    return {"pid": os.getpid()}


def _work(root, rank, size):
    team = Team(Ledger(root), rank=rank, size=size)
    team.run(_UNITS, _do, "Working")


def _results(root):
    ledger = Ledger(root)
    ledger.refresh()
    return {unit.name: (ledger.folder(unit) / "result").read_text() for unit in _UNITS}


@pytest.fixture(scope="module")
def processes():
    return multiprocessing.get_context("fork")


@pytest.mark.parametrize("size", [2, 3])
def test_processes_do_every_unit_once_between_them(tmp_path, processes, size):
    _work(tmp_path / "alone", 0, 1)
    root = tmp_path / "shared"
    others = [processes.Process(target=_work, args=(root, rank, size)) for rank in range(size)]
    for one in others:
        one.start()
    for one in others:
        one.join(20)
    assert [one.exitcode for one in others] == [0] * size
    assert _results(root) == _results(tmp_path / "alone")
    said = b"".join(log.read_bytes() for log in (root / "log").iterdir())
    assert said.count(b"\n") == len(_UNITS)  # none was done twice
    assert not list(root.rglob("*.lock"))


def test_a_process_begins_with_the_ranges_of_which_it_has_done_something(tmp_path):
    """In the next phase: gradients that it keeps are of these, and others have those of theirs."""

    def phase(name):
        ranges = [f"{start:09d}-{start + 1:09d}" for start in range(6)]
        return [Unit("stage", f"{name}/{one}", {"part": f"{name}/{one}"}) for one in ranges]

    done = []

    def note(unit, folder):
        done.append(int(unit.name[-1]) - 1)

    first, second = phase("first"), phase("second")
    for number in (0, 1, 2, 3, 4):  # another process, which was there earlier
        Ledger(tmp_path).write(first[number], lambda unit, folder: None)
    team = Team(Ledger(tmp_path), rank=1, size=2)
    team.run(first, note, "Working")
    assert done == [5]
    team.run(second, note, "Working")
    assert done[1:] == [5, 3, 4, 2, 1, 0]


def test_the_living_do_what_a_killed_process_was_at(tmp_path, processes):
    def hangs(unit, folder):
        time.sleep(100)

    def work():
        Team(Ledger(tmp_path), rank=1, size=2).run(_UNITS, hangs, "Working")

    other = processes.Process(target=work)
    other.start()
    while not list(tmp_path.rglob("*.lock")):
        time.sleep(0.01)
    timer = multiprocessing.get_context("fork").Process(
        target=lambda pid: (time.sleep(0.3), os.kill(pid, signal.SIGKILL)), args=(other.pid,)
    )
    timer.start()
    _work(tmp_path, 0, 2)
    assert len(_results(tmp_path)) == len(_UNITS)
    other.join(5), timer.join(5)


def test_a_process_that_hangs_ends_itself_and_says_where(tmp_path, processes, capfd):
    def hangs(unit, folder):
        time.sleep(100)

    def work():
        logging.basicConfig(force=True)
        Team(Ledger(tmp_path), rank=1, size=2, timeout=0.2).run(_UNITS, hangs, "Working")

    other = processes.Process(target=work)
    other.start()
    other.join(10)
    assert other.exitcode == 1
    said = capfd.readouterr().err
    assert 0 < said.index("launch.timeout_seconds") < said.index("in hangs")
    _work(tmp_path, 0, 2)
    assert len(_results(tmp_path)) == len(_UNITS)


def test_a_process_that_others_were_as_slow_as_does_not_hang(tmp_path, processes):
    """A unit may take long in one that has done none yet."""
    Team(Ledger(tmp_path)).run(_UNITS[:1], lambda unit, folder: {"seconds": 60.0}, "Working")

    def slow(unit, folder):
        time.sleep(0.8)

    def work():
        Team(Ledger(tmp_path), rank=1, size=2, timeout=0.1).run(_UNITS[:2], slow, "Working")

    other = processes.Process(target=work)
    other.start()
    other.join(10)
    assert other.exitcode == 0


def test_a_unit_that_fails_elsewhere_is_the_first_process_s_to_raise(tmp_path, processes):
    def fails(unit, folder):
        if unit.name == "005":
            raise ValueError("five")
        return _do(unit, folder)

    def work():
        Team(Ledger(tmp_path), rank=1, size=2).run(_UNITS, fails, "Working")

    other = processes.Process(target=work)
    other.start()
    with pytest.raises(ValueError, match="five"):
        Team(Ledger(tmp_path), rank=0, size=2).run(_UNITS, fails, "Working")
    other.terminate()
    other.join(5)


def test_no_process_waits_for_units_that_are_none_any_more(tmp_path, processes):
    """One finds in a unit that other units are wanted, and the others learn it where it says so."""
    said = tmp_path / "other"

    def work(rank):
        def check():
            if said.exists():
                raise OtherUnitsError

        def changes(unit, folder):
            if unit.name == "005":
                said.touch()
                raise OtherUnitsError
            return _do(unit, folder)

        team = Team(Ledger(tmp_path / "units"), rank=rank, size=3, check=check)
        with pytest.raises(OtherUnitsError):
            team.run(_UNITS, changes, "Working")

    others = [processes.Process(target=work, args=(rank,)) for rank in range(3)]
    for one in others:
        one.start()
    for one in others:
        one.join(20)
    assert [one.exitcode for one in others] == [0] * 3
    ledger = Ledger(tmp_path / "units")
    ledger.refresh()
    assert "005" in {one.name for one in ledger.missing(_UNITS)}
    assert not list(tmp_path.rglob("*.partial"))


def test_damaged_units_are_done_again_by_who_reads_them(tmp_path):
    _work(tmp_path, 0, 1)
    for file in list(tmp_path.rglob("result"))[:2]:
        file.write_text(file.read_text()[::-1])
    team = Team(Ledger(tmp_path))

    def stage():
        team.run(_UNITS, _do, "Working")
        return [(team.ledger.folder(unit) / "result").read_text() for unit in _UNITS]

    assert team.until_sound(stage) == [f"{unit.name} of {unit.identity}" for unit in _UNITS]


def test_what_others_did_and_nobody_needs_any_more_is_waited_for_no_longer(tmp_path):
    """A process that looks away for a phase finds the units of the phase before dropped."""
    first, team = Team(Ledger(tmp_path)), Team(Ledger(tmp_path), rank=1, size=2)

    def others_go_on():
        first.run(_UNITS, _do, "Working")
        first.ledger.drop(_UNITS)

    def never(unit, folder):
        raise AssertionError

    team.until_sound(lambda: (others_go_on(), team.run(_UNITS, never, "Working")))
    # From the beginning of another stage on they may be wanted again.
    team.until_sound(lambda: team.run(_UNITS, _do, "Working"))
    assert len(_results(tmp_path)) == len(_UNITS)


def test_a_unit_that_another_process_found_damaged_is_damaged(tmp_path):
    _work(tmp_path, 0, 1)
    ledger, other = Ledger(tmp_path), Ledger(tmp_path)
    ledger.refresh(), other.refresh()
    file = ledger.folder(_UNITS[0]) / "result"
    file.write_text(file.read_text()[::-1])
    for one in (other, other, Ledger(tmp_path)):
        one.refresh()
        with pytest.raises(CorruptUnitError, match="computed again"):
            one.folder(_UNITS[0])


@given(costs=st.lists(st.floats(0, 100), max_size=30), size=st.integers(1, 40))
def test_shares_are_neighbours_in_order_and_hold_every_unit_once(costs, size):
    units = [Unit("stage", str(place), {}, cost=cost) for place, cost in enumerate(costs)]
    parts = shares(units, size)
    assert len(parts) == size
    assert [one for part in parts for one in part] == units
    largest = max(costs, default=0)
    for part in parts:
        assert sum(one.cost for one in part) <= sum(costs) / size + largest + 1e-6


@given(st.integers(0, 30), st.integers(1, 8))
def test_a_process_comes_to_every_unit_its_share_first(count, size):
    units = [Unit("stage", str(number), {}) for number in range(count)]
    parts = shares(units, size)
    for rank in range(size):
        ordered = list(in_order(parts, rank))
        assert ordered[: len(parts[rank])] == parts[rank]
        assert sorted(ordered, key=lambda one: int(one.name)) == units


def test_a_unit_whose_files_are_gone_is_done_again_by_whom_it_belongs_to(tmp_path, processes):
    _work(tmp_path, 0, 1)
    ledger = Ledger(tmp_path)
    ledger.refresh()
    for unit in (_UNITS[0], _UNITS[-1]):
        (ledger.folder(unit) / "result").unlink()
    others = [processes.Process(target=_work, args=(tmp_path, rank, 2)) for rank in range(2)]
    for one in others:
        one.start()
    for one in others:
        one.join(20)
    assert len(_results(tmp_path)) == len(_UNITS)


def test_who_waits_asks_for_few_units_at_a_time(tmp_path, monkeypatch):
    class _SleepError(Exception):
        pass

    def sleep(seconds):
        raise _SleepError

    team = Team(Ledger(tmp_path), rank=1, size=2)
    units = [Unit("stage", str(number), {}) for number in range(100)]
    with ExitStack() as held:
        for unit in units:
            lock = team.ledger.lock_file(unit)
            lock.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(FileLock(lock))
        asked = []
        monkeypatch.setattr(team.ledger, "lock_file", lambda unit: asked.append(unit) or lock)
        monkeypatch.setattr("time.sleep", sleep)
        with pytest.raises(_SleepError):
            team.run(units, _do, "Working")
    assert 0 < len(asked) < 20


def test_the_first_process_calls_the_others_to_a_stage_once_where_there_is_work_for_two(tmp_path):
    called = []
    team = Team(Ledger(tmp_path), size=2, call=called.append)
    team.run(_UNITS[:1], _do, "Working")
    assert called == []
    for end in (4, 8):
        team.run(_UNITS[:end], _do, "Working")
    assert called == ["stage"]
    Team(Ledger(tmp_path), size=2, call=called.append).run(_UNITS[:8], _do, "Working")
    assert called == ["stage"]

    with_damage = iter([CorruptUnitError(_UNITS[0], tmp_path), None])

    def stage():
        if error := next(with_damage, None):
            raise error
        team.run(_UNITS, _do, "Working")

    team.until_sound(stage)
    assert called == ["stage", "stage"]

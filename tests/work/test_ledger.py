"""A unit is done once its log says so and its files are there; nothing else is believed."""

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sourcetrace.work import ledger
from sourcetrace.work.ledger import Ledger
from sourcetrace.work.unit import CorruptUnitError, Unit


def _unit(name="a", **made_of):
    return Unit("extraction", name, {"code": "1", **made_of})


def _write(ledger, unit, content=b"bytes"):
    ledger.write(unit, lambda _, folder: (folder / "part").write_bytes(content) and None)


def _states(root, *units):
    ledger = Ledger(root)
    ledger.refresh()
    return ledger.states(units)


def test_another_process_sees_what_was_written(tmp_path):
    unit = _unit()
    _write(Ledger(tmp_path), unit)
    other = Ledger(tmp_path)
    other.refresh()
    assert other.states([unit, _unit("b")]) == ["done", "missing"]
    assert (other.folder(unit) / "part").read_bytes() == b"bytes"
    assert other.facts(unit)["seconds"] >= 0


def test_what_is_made_of_something_else_is_stale_and_says_in_what(tmp_path):
    ledger = Ledger(tmp_path)
    _write(ledger, _unit(data="1"))
    changed = _unit(data="2")
    assert ledger.states([changed]) == ["stale"]
    assert ledger.differences(changed) == ["data"]
    _write(ledger, changed)
    # The older result is still there: who goes back has it.
    assert ledger.states([changed, _unit(data="1")]) == ["done", "done"]
    ledger.drop(ledger.others("extraction", [changed]))
    assert _states(tmp_path, changed, _unit(data="1")) == ["done", "stale"]


def test_nothing_is_said_of_what_another_process_found_damaged(tmp_path):
    ledger = Ledger(tmp_path)
    _write(ledger, _unit())
    other = Ledger(tmp_path)
    other.refresh()
    other.drop([_unit()], lost=True)
    ledger.refresh()
    with pytest.raises(CorruptUnitError, match="computed again"):
        ledger.facts(_unit())


@given(length=st.integers(0, 200))
def test_a_log_torn_at_any_byte_leaves_whole_lines_alone(tmp_path_factory, length):
    root = tmp_path_factory.mktemp("torn")
    ledger, units = Ledger(root), [_unit("a"), _unit("b")]
    for unit in units:
        _write(ledger, unit)
    (log,) = (root / "log").iterdir()
    content = log.read_bytes()
    log.write_bytes(content[: max(0, len(content) - length)])
    whole = log.read_bytes().count(b"\n")
    assert _states(root, *units) == ["done"] * whole + ["missing"] * (2 - whole)


@given(place=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_a_damaged_line_says_nothing(tmp_path_factory, place, byte):
    root = tmp_path_factory.mktemp("damaged")
    ledger, units = Ledger(root), [_unit("a"), _unit("b")]
    for unit in units:
        _write(ledger, unit)
    (log,) = (root / "log").iterdir()
    written = log.read_bytes()
    content = bytearray(written)
    content[place % len(content)] = byte
    log.write_bytes(content)
    done = _states(root, *units).count("done")
    # A line's end that is gone joins it to the next; a tab for a space says the same.
    assert done == 2 if content == written else done < 2 or content.split() == written.split()


@pytest.mark.parametrize("call", ["mkdir", "rename", "_say"])
def test_a_kill_at_any_call_leaves_a_unit_missing_and_the_next_does_it(tmp_path, monkeypatch, call):
    class Killed(BaseException):
        pass

    def killed(*_, **__):
        raise Killed

    unit, ledger = _unit(), Ledger(tmp_path)
    with monkeypatch.context() as patch:
        target = {"mkdir": "pathlib.Path.mkdir", "rename": "os.rename"}.get(call)
        patch.setattr(target, killed) if target else patch.setattr(ledger, "_say", killed)
        # A kill lets nobody clear up.
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(Killed):
            _write(ledger, unit)
    assert _states(tmp_path, unit) == ["missing"]
    again = Ledger(tmp_path)
    _write(again, unit)
    assert _states(tmp_path, unit) == ["done"]
    assert os.listdir(again.folder(unit)) == ["part"]


def test_damaged_bytes_are_found_when_they_are_read_and_missing_from_then_on(tmp_path):
    unit = _unit()
    _write(Ledger(tmp_path), unit, b"right")
    (file,) = tmp_path.rglob("part")
    file.write_bytes(b"wrong")
    ledger = Ledger(tmp_path)
    ledger.refresh()
    assert ledger.states([unit]) == ["done"]  # of the same size
    with pytest.raises(CorruptUnitError, match="damaged"):
        ledger.folder(unit)
    assert _states(tmp_path, unit) == ["missing"]


@pytest.mark.parametrize("spoil", ["cut", "removed"])
def test_a_file_of_another_size_is_not_done(tmp_path, spoil):
    unit = _unit()
    _write(Ledger(tmp_path), unit)
    (file,) = tmp_path.rglob("part")
    file.write_bytes(b"") if spoil == "cut" else file.unlink()
    assert _states(tmp_path, unit) == ["missing"]


def test_a_tidied_ledger_says_the_same_and_keeps_what_is_not_ours(tmp_path):
    units = [_unit(str(number)) for number in range(3)]
    for unit in units:
        _write(Ledger(tmp_path), unit)
    (tmp_path / "extraction" / "notes.txt").write_text("a person's")
    killed = tmp_path / "extraction" / "unit.host-1.partial"
    killed.mkdir()
    ledger = Ledger(tmp_path)
    ledger.tidy()
    assert len(list((tmp_path / "log").iterdir())) == 1
    assert not killed.exists()
    ledger.drop(ledger.others("extraction", units[:1]))
    assert _states(tmp_path, *units) == ["done", "missing", "missing"]
    assert (tmp_path / "extraction" / "notes.txt").exists()
    assert ledger.states(units) == ["done", "missing", "missing"]


@pytest.mark.parametrize("killed", ["before a line says so", "while it is removed"])
def test_what_no_line_names_is_gone_when_a_ledger_is_tidied(tmp_path, monkeypatch, killed):
    kept, left = _unit("kept"), _unit("left")
    ledger = Ledger(tmp_path)
    _write(ledger, kept)
    if killed == "while it is removed":
        _write(ledger, left)
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "rmtree", lambda *_, **__: None)
            ledger.drop([left])
    else:
        with monkeypatch.context() as patch:
            patch.setattr(ledger, "_say", lambda *_, **__: None)
            _write(ledger, left)
    assert ledger._folder(left).exists()
    Ledger(tmp_path).tidy()
    assert list((tmp_path / "extraction").iterdir()) == [ledger._folder(kept)]
    assert _states(tmp_path, kept, left) == ["done", "missing"]


def test_the_logs_are_kept_until_the_disk_has_what_is_in_their_place(tmp_path, monkeypatch):
    for name in "ab":
        _write(Ledger(tmp_path), _unit(name))
    done = []
    synced, unlinked = os.fsync, Path.unlink
    monkeypatch.setattr(os, "fsync", lambda opened: (done.append("sync"), synced(opened)))
    monkeypatch.setattr(
        Path, "unlink", lambda self, **given: (done.append("unlink"), unlinked(self, **given))
    )
    Ledger(tmp_path).tidy()
    assert done == ["sync"] * 4 + ["unlink"] * 2  # three logs and their folder


def test_a_file_that_goes_while_it_is_looked_at_is_not_what_was_written(tmp_path, monkeypatch):
    unit, instance = _unit(), Ledger(tmp_path)
    _write(instance, unit)
    digest = ledger.file_digest
    monkeypatch.setattr(ledger, "file_digest", lambda file: (file.unlink(), digest(file)))
    assert instance.damaged_file(unit).name == "part"


def test_a_line_behind_one_that_a_full_disk_has_cut_is_read(tmp_path):
    units, instance = [_unit("a"), _unit("b"), _unit("c")], Ledger(tmp_path)
    _write(instance, units[0])
    with instance._log.open("ab") as opened:
        opened.write(b'{"stage": ')
    instance.refresh()
    for unit in units[1:]:
        _write(instance, unit)
    assert _states(tmp_path, *units) == ["done"] * 3


def test_who_asks_while_the_logs_are_put_into_one_hears_of_all(tmp_path, monkeypatch):
    units = [_unit("a"), _unit("b")]
    for unit in units:
        _write(Ledger(tmp_path), unit)
    asks, opened = Ledger(tmp_path), Path.open

    def tidied_before(log, mode):
        monkeypatch.setattr(Path, "open", opened)
        Ledger(tmp_path).tidy()
        return opened(log, mode)

    monkeypatch.setattr(Path, "open", tidied_before)
    assert asks.refresh() == units
    assert asks.states(units) == ["done", "done"]


@given(st.text(max_size=300))
def test_any_name_is_a_folder_s_within_the_root(name):
    ledger = Ledger(Path("/root"))
    folder = ledger._folder(_unit(name))
    assert folder.parent.as_posix() == "/root/extraction"
    assert len(folder.name) < 150

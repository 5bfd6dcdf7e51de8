"""The history of audits: what was written is there, and what was changed is named."""

import json
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sourcetrace.datasets import AuditLogDataset
from sourcetrace.schemas import AuditLog
from sourcetrace.tracking.history.audit_log import (
    AuditHistory,
)

ROWS = 5


def entry(number, **changes):
    values = {
        "at": f"2026-01-0{9 - number % 9}T00:00:00+00:00",  # a clock that runs backwards
        "run_id": f"run {number}",
        "model_name": None if number % 2 else "müsli | churn",
        "model_version": None if number % 2 else str(number),
        "status": "pass",
        "trust": "Verified",
        "suspect_fraction": number / 10,
        "training_digest": f"st1-{number:032x}",
        "query_digest": None,
        "report_sha256": "a" * 64,
    }
    return {**values, **changes}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The lines and the head of a log of five audits."""
    log = tmp_path_factory.mktemp("log") / "audit_log.jsonl"
    for number in range(ROWS):
        AuditHistory(log).append(entry(number))
    return log.read_bytes(), log.with_name("audit_log.head.json").read_bytes()


@pytest.fixture
def log(written, tmp_path):
    """A fresh copy of it."""
    restore(tmp_path / "audit_log.jsonl", written)
    return tmp_path / "audit_log.jsonl"


def restore(log, written):
    log.write_bytes(written[0])
    log.with_name("audit_log.head.json").write_bytes(written[1])


def change(log, lines):
    log.write_bytes(b"".join(line + b"\n" for line in lines))


def test_a_log_as_it_was_written_is_sound_and_fits_its_schema(log):
    assert AuditHistory(log).verify() == []
    table = AuditLog.validate(AuditLogDataset(str(log)).load())
    assert table["sequence"].to_list() == [1, 2, 3, 4, 5]
    assert table["run_id"].to_list() == [f"run {n}" for n in range(ROWS)]


def test_no_log_is_sound_and_empty(tmp_path):
    log = tmp_path / "audit_log.jsonl"
    assert AuditHistory(log).verify() == []
    assert AuditLog.validate(AuditLogDataset(str(log)).load()).height == 0


VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.just([]))


@settings(
    max_examples=80,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(place=st.integers(0, ROWS - 1), column=st.integers(0, 12), value=VALUES)
def test_any_edit_of_any_field_of_any_row_is_caught_and_the_row_is_named(
    written, log, place, column, value
):
    restore(log, written)
    lines = log.read_bytes().splitlines()
    row = json.loads(lines[place])
    name = sorted(row)[column]
    if json.dumps(row[name]) == json.dumps(value):
        return
    row[name] = value
    lines[place] = json.dumps(row, sort_keys=True, separators=(",", ":")).encode()
    change(log, lines)
    problems = AuditHistory(log).verify()
    assert any(f"line {place + 1}" in text.lower() and "edited" in text for text in problems)
    assert len(problems) == 1, "the other rows are as they were"


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_changed_byte_is_caught(written, log, data):
    restore(log, written)
    content = bytearray(log.read_bytes())
    # The last byte ends the last line; a kill before it changes nothing that was recorded.
    at = data.draw(st.integers(0, len(content) - 2))
    content[at] = data.draw(st.integers(0, 255).filter(lambda byte: byte != content[at]))
    log.write_bytes(content)
    assert AuditHistory(log).verify()


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        ([1, 2, 3, 4], "Row 1 was dropped"),
        ([0, 1, 3, 4], "Row 3 was dropped"),
        ([0, 3, 4], "Rows 2 to 3 were dropped"),
        ([0, 1, 2, 3], "Row 5 was dropped from the end"),
        ([0], "Rows 2 to 5 were dropped from the end"),
        ([], "Rows 1 to 5 were dropped from the end"),
        ([0, 2, 1, 3, 4], "moved or repeated"),
        ([0, 1, 2, 3, 4, 4], "moved or repeated"),
    ],
)
def test_dropped_and_moved_rows_are_named_and_stay_named_after_further_audits(log, kept, said):
    lines = log.read_bytes().splitlines()
    change(log, [lines[number] for number in kept])
    assert any(said in text for text in AuditHistory(log).verify())
    if "end" not in said:
        AuditHistory(log).append(entry(7))
        assert any(said in text for text in AuditHistory(log).verify())


def test_rows_dropped_from_the_end_stay_missing_after_further_audits(log):
    change(log, log.read_bytes().splitlines()[:3])
    AuditHistory(log).append(entry(7))
    assert AuditHistory(log).verify() == ["Rows 4 to 5 were dropped before row 6."]


def test_a_log_written_anew_is_found_out_by_its_head_or_by_mlflow(log, tmp_path):
    anchors = {row["run_id"]: [row["hash"]] for row in AuditHistory(log).read()}
    forged = tmp_path / "forged" / "audit_log.jsonl"
    for number in range(ROWS):
        AuditHistory(forged).append(entry(number, suspect_fraction=0.0))
    log.write_bytes(forged.read_bytes())
    assert AuditHistory(log).verify() == [
        "Row 5 (line 5) is not the one that was written: the log was rewritten."
    ]
    assert AuditHistory(forged).verify() == []
    assert any(
        "MLflow's run run 1" in text for text in AuditHistory(forged).verify(anchors=anchors)
    )


def test_a_missing_head_is_said(log):
    log.with_name("audit_log.head.json").unlink()
    assert "missing or damaged" in AuditHistory(log).verify()[0]


@pytest.mark.parametrize("left", [1, 40, -2])
def test_a_line_that_a_kill_left_unfinished_is_removed_by_the_next_audit(log, left):
    sound = log.read_bytes()
    log.write_bytes(sound + sound.splitlines()[0][:left])
    assert AuditHistory(log).verify() == []
    AuditHistory(log).append(entry(5))
    assert AuditHistory(log).verify() == []
    assert [row["sequence"] for row in AuditHistory(log).read()] == [1, 2, 3, 4, 5, 6]


def test_a_kill_before_the_line_end_or_the_head_loses_nothing(log):
    head = log.with_name("audit_log.head.json")
    before = head.read_bytes()
    AuditHistory(log).append(entry(5))
    log.write_bytes(log.read_bytes().removesuffix(b"\n"))
    head.write_bytes(before)
    assert AuditHistory(log).verify() == []
    AuditHistory(log).append(entry(6))
    assert AuditHistory(log).verify() == []
    assert len(AuditHistory(log).read()) == ROWS + 2


def test_two_writers_do_not_lose_each_others_rows(tmp_path):
    log = tmp_path / "audit_log.jsonl"

    def write(first):
        for number in range(first, first + 10):
            AuditHistory(log).append(entry(number))

    threads = [threading.Thread(target=write, args=(first,)) for first in (0, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert AuditHistory(log).verify() == []
    assert len({row["run_id"] for row in AuditHistory(log).read()}) == 20

"""The journal of a run: whole after a kill, and one writer's."""

import math

import pytest
from mlflow.entities import Metric, RunStatus

from sourcetrace.tracking.server.journal import Journal, WaitingRun, open_journal, waiting_runs


@pytest.fixture
def begin(tmp_path):
    def make(name, start_time=5):
        run = WaitingRun(
            folder=tmp_path / name,
            key=name,
            run_id=None,
            experiment="audits",
            experiment_id=None,
            name="audit",
            user="ada",
            start_time=start_time,
        )
        return Journal.begin(run)

    return make


def test_what_is_written_is_read_again(begin, tmp_path):
    journal = begin("a")
    journal.log(params={"seed": "0"}, tags={"a": "1", "b": "2"})
    journal.log(metrics=[Metric("loss", math.inf, 7, 3, dataset_name="d", dataset_digest="1")])
    journal.log(metrics=[Metric("loss", math.nan, 8, 4)])
    journal.drop_tag("a")
    journal.set_status(RunStatus.FINISHED, 9, None)
    journal.close()
    again = open_journal(tmp_path / "a").run
    assert again.params == {"seed": "0"}
    assert (again.tags, again.dropped_tags) == ({"b": "2"}, {"a"})
    assert (again.status, again.end_time, again.name) == ("FINISHED", 9, "audit")
    first, second = again.metrics
    assert (first.value, first.timestamp, first.step) == (math.inf, 7, 3)
    assert (first.dataset_name, first.dataset_digest) == ("d", "1")
    assert math.isnan(second.value)


def test_a_line_that_a_kill_left_is_dropped_at_every_length(begin, tmp_path):
    journal = begin("a")
    journal.log(params={"kept": "1"})
    file = tmp_path / "a/journal.jsonl"
    whole = file.read_bytes()
    journal.log(params={"cut": "2"})
    journal.close()
    longer = file.read_bytes()
    for length in range(len(whole), len(longer)):
        file.write_bytes(longer[:length])
        opened = open_journal(tmp_path / "a")
        assert opened.run.params == {"kept": "1"}
        opened.log(tags={"after": "it"})
        opened.close()
        again = open_journal(tmp_path / "a")
        assert again.run.tags == {"after": "it"}
        again.close()


def test_a_run_has_one_writer_and_the_oldest_is_first(begin, tmp_path):
    later, earlier = begin("a", start_time=7), begin("b", start_time=6)
    assert [folder.name for folder in waiting_runs(tmp_path)] == ["b", "a"]
    assert open_journal(tmp_path / "a") is None
    later.close()
    open_journal(tmp_path / "a").discard()
    assert [folder.name for folder in waiting_runs(tmp_path)] == ["b"]
    earlier.close()


def test_the_last_words_of_a_run_that_was_sent_do_not_bring_it_back(begin, tmp_path):
    journal = begin("a")
    journal.close()
    open_journal(tmp_path / "a").discard()
    journal.set_status(RunStatus.FINISHED, 9, None)
    assert waiting_runs(tmp_path) == []


def test_files_stay_as_they_were_and_inside_the_run(begin, tmp_path):
    journal, page = begin("a"), tmp_path / "page.html"
    page.write_text("ours")
    journal.keep_file(page, "audit")
    page.write_text("another's")
    assert (tmp_path / "a/artifacts/audit/page.html").read_text() == "ours"
    with pytest.raises(ValueError, match="not inside"):
        journal.keep_file(page, "../../elsewhere")
    journal.close()

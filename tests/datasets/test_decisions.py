"""The log of decisions is only ever added to, and survives a killed writer."""

import polars as pl
import pytest
from kedro.io import DatasetError

from sourcetrace.datasets import DecisionLogDataset, DecisionsFileDataset, ReviewSampleDataset
from sourcetrace.schemas import DecisionLog


def entry(name):
    of_all = ("0" * 40, "keep", None, None, "aa", "3", "Ann", "2026-11-29T10:00:00+00:00")
    return DecisionLog.frame([(name, *of_all)])


def test_what_is_saved_is_added(tmp_path):
    log = DecisionLogDataset(str(tmp_path / "folder/decisions.jsonl"))
    assert log.load().equals(DecisionLog.frame())
    log.save(entry("a"))
    before = (tmp_path / "folder/decisions.jsonl").read_bytes()
    log.save(entry("b"))
    log.save(DecisionLog.frame())
    assert (tmp_path / "folder/decisions.jsonl").read_bytes().startswith(before)
    assert DecisionLog.validate(log.load())["example_id"].to_list() == ["a", "b"]


def test_a_line_that_was_left_unfinished_does_not_count(tmp_path):
    file = tmp_path / "decisions.jsonl"
    log = DecisionLogDataset(str(file))
    log.save(entry("a"))
    file.write_bytes(file.read_bytes() + b'{"example_id": "b", "conte')
    assert log.load()["example_id"].to_list() == ["a"]
    log.save(entry("c"))
    assert log.load()["example_id"].to_list() == ["a", "c"]


def test_a_damaged_log_is_refused(tmp_path):
    file = tmp_path / "decisions.jsonl"
    file.write_text("{]\n")
    with pytest.raises(DatasetError, match=r"decisions\.jsonl is damaged"):
        DecisionLogDataset(str(file)).load()


def test_a_file_need_not_be_named_but_must_be_there_where_it_is(tmp_path):
    assert DecisionsFileDataset(None).load().is_empty()
    with pytest.raises(DatasetError, match=r"decisions\.path: .*no\.csv cannot be read"):
        DecisionsFileDataset(str(tmp_path / "no.csv")).load()
    (tmp_path / "other.csv").write_bytes("example_id;decision\r\nä;keep\r\n".encode("latin-1"))
    with pytest.raises(DatasetError, match="Save it as “CSV UTF-8”"):
        DecisionsFileDataset(str(tmp_path / "other.csv")).load()
    (tmp_path / "bare.csv").write_text("example_id,decision\n")
    with pytest.raises(DatasetError, match="has no column content_digest"):
        DecisionsFileDataset(str(tmp_path / "bare.csv")).load()


def test_a_sample_stays_until_another_is_drawn(tmp_path):
    sample = ReviewSampleDataset(str(tmp_path / "sample.csv"))
    assert sample.load().is_empty()
    drawn = pl.DataFrame({"example_id": ["a"], "content_digest": ["0"], "decision": [None]})
    sample.save(drawn)
    sample.save(drawn.clear())
    assert sample.load().select("example_id", "decision", "line").rows() == [("a", "", "2")]

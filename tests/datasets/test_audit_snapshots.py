"""What is kept of earlier audits: whole or not at all, in order, once each, not for ever."""

import json
from dataclasses import replace

import polars as pl
import pytest

from sourcetrace import files
from sourcetrace.audit.comparison.snapshot import AuditFigures, AuditSnapshot
from sourcetrace.audit.comparison.summary import AuditPoint
from sourcetrace.datasets import AuditSnapshotsDataset
from sourcetrace.datasets import audit_snapshots as module

POINT = AuditPoint("", "pass", 2, 0.5, 0.25, 0.1, None)
SERIES = ("a.Task", None)


def snapshot(identity, *, task="a.Task", model=None, keep=30, outcome="pass", harm=1.0):
    figures = AuditFigures(
        identity=identity,
        task=task,
        model=model,
        method="source",
        scores_digest=identity,
        training_digest="st1-0",
        query_digest="st1-1",
        point=replace(POINT, outcome=outcome),
        spectra=({"segment": 1, "layer": "fc", "quantiles": [1.0]},),
    )
    examples = pl.DataFrame({"example_id": ["é"], "harm": [harm]})
    return AuditSnapshot(figures, examples, keep)


@pytest.fixture
def dataset(tmp_path):
    return AuditSnapshotsDataset(str(tmp_path / "snapshots"))


def identities(dataset, series=SERIES):
    return [one.identity for one in dataset.load().history(series)]


def test_what_was_kept_comes_back_as_it_was(dataset):
    given = snapshot("a")
    dataset.save(given)
    (kept,) = dataset.load().history(SERIES)
    assert replace(kept, point=replace(kept.point, at="")) == given.figures
    assert kept.point.at.endswith("+00:00")
    assert dataset.load().examples(kept).equals(given.examples)


def test_a_first_audit_has_no_history(dataset):
    assert identities(dataset) == []
    assert not dataset.exists()


def test_tasks_and_models_have_histories_of_their_own(dataset):
    for number, (task, model) in enumerate([("a.Task", None), ("a.Task", "m"), ("b.Task", None)]):
        dataset.save(snapshot(str(number), task=task, model=model))
    assert identities(dataset) == ["0"]
    assert identities(dataset, ("a.Task", "m")) == ["1"]
    assert identities(dataset, ("b.Task", None)) == ["2"]


def test_the_same_audit_again_takes_its_own_place_and_time(dataset, monkeypatch):
    for name in ("a", "b"):
        dataset.save(snapshot(name))
    before = dataset.load().history(SERIES)
    dataset.save(snapshot("other series", task="b.Task"))
    dataset.save(snapshot("b", outcome="fail", harm=2.0))
    after = dataset.load().history(SERIES)
    assert [one.identity for one in after] == ["a", "b"]
    assert after[1].point == replace(before[1].point, outcome="fail")
    assert dataset.load().examples(after[1])["harm"].to_list() == [2.0]


def test_an_audit_that_comes_back_after_another_is_one_more(dataset):
    for name in ("a", "b", "a"):
        dataset.save(snapshot(name))
    assert identities(dataset) == ["a", "b", "a"]


def test_before_an_audit_are_those_before_it_however_often_it_runs():
    a, b, again = history = [snapshot(name).figures for name in ("a", "b", "a")]
    assert a.those_before([]) == []
    assert a.those_before([a]) == []
    assert b.those_before([a]) == [a]
    assert a.those_before([a, b]) == [a, b]
    assert again.those_before(history) == [a, b]


def test_the_oldest_go_and_no_file_is_left_over(dataset, tmp_path):
    dataset.save(snapshot("kept", task="b.Task"))
    for name in "abcde":
        dataset.save(snapshot(name, keep=3, harm=float(ord(name))))
    assert identities(dataset) == ["c", "d", "e"]
    assert identities(dataset, ("b.Task", None)) == ["kept"]
    files = sorted(file.suffix for file in (tmp_path / "snapshots").iterdir())
    assert files == ["", *[".json"] * 4, *[".parquet"] * 4]


@pytest.mark.parametrize("killed_at", [1, 2, 3, 4])
def test_a_killed_audit_leaves_none_and_the_earlier_ones_alone(
    dataset, tmp_path, monkeypatch, killed_at
):
    """Stops at each write: the parquet file, its name, the JSON file, its name."""
    dataset.save(snapshot("a"))
    dataset.save(snapshot("b"))
    before = dataset.load().history(SERIES)
    done = 0

    def die(function):
        def step(*arguments, **options):
            nonlocal done
            done += 1
            if done == killed_at:
                raise KeyboardInterrupt
            return function(*arguments, **options)

        return step

    with monkeypatch.context() as patch:
        patch.setattr(pl.DataFrame, "write_parquet", die(pl.DataFrame.write_parquet))
        patch.setattr(files.os, "replace", die(files.os.replace))
        patch.setattr(module.Path, "write_text", die(module.Path.write_text))
        for one in ("c", "b"):
            done = 0
            with pytest.raises(KeyboardInterrupt):
                dataset.save(snapshot(one, harm=7.0))
    assert dataset.load().history(SERIES) == before
    assert dataset.load().examples(before[1])["harm"].to_list() == [1.0]
    dataset.save(snapshot("c"))
    assert identities(dataset) == ["a", "b", "c"]
    names = {file.name for file in (tmp_path / "snapshots").glob("*.parquet")}
    assert len(names) == 3


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"version": 2, "examples": "x", "audit": {}}']
)
def test_a_damaged_file_is_left_out_and_said(dataset, tmp_path, caplog, content):
    dataset.save(snapshot("a"))
    dataset.save(snapshot("b"))
    (tmp_path / "snapshots/000002.json").write_text(content)
    assert identities(dataset) == ["a"]
    assert "000002.json is no kept audit" in caplog.text


def test_a_name_that_leads_out_of_the_folder_is_not_followed(dataset, tmp_path):
    dataset.save(snapshot("a"))
    (tmp_path / "secret.parquet").write_bytes(b"")
    file = tmp_path / "snapshots/000001.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "examples": "../secret.parquet"}))
    assert identities(dataset) == []

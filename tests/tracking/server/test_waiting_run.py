"""A run's folder: one holder at a time, and nothing left once it is sent."""

import pytest
from mlflow.tracking import MlflowClient

from sourcetrace.tracking.server import waiting_run
from sourcetrace.tracking.server.waiting_run import WaitingRun, empty_store


def test_a_run_has_one_holder_and_waits_until_it_is_discarded(tmp_path):
    run = WaitingRun.begin(tmp_path)
    assert WaitingRun.folders(tmp_path) == []
    run.keep_audit({"status": "pass"}, log="audit_log.jsonl")
    assert WaitingRun.folders(tmp_path) == [run.folder]
    assert WaitingRun.open(run.folder) is None
    run.close()
    again = WaitingRun.open(run.folder)
    assert again.audit() == (tmp_path.parent / "audit_log.jsonl", {"status": "pass"})
    again.discard()
    assert WaitingRun.folders(tmp_path) == []
    # Whoever listed it before finds nothing to send.
    assert WaitingRun.open(run.folder) is None
    assert not run.folder.exists()


# MLflow's own use of SQLAlchemy.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_store_is_a_copy_of_an_empty_one(tmp_path, monkeypatch, empty_server):
    monkeypatch.setattr(waiting_run, "empty_store", lambda: empty_server)
    run = WaitingRun.begin(tmp_path)
    assert not run.has_store
    run.make_store()
    assert run.has_store
    assert [one.name for one in MlflowClient(run.store, run.store).search_experiments()] == [
        "Default"
    ]
    run.close()


def test_without_a_home_the_empty_store_is_elsewhere(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    made = []
    monkeypatch.setattr(waiting_run.Path, "home", no_home)
    monkeypatch.setattr(waiting_run, "_make_empty_store", made.append)
    empty_store.__wrapped__()
    assert made[0].name.startswith("sourcetrace-")

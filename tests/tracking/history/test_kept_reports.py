"""A version's reports are kept where they are certainly its own."""

import hashlib
from types import SimpleNamespace

import pytest

from sourcetrace.locks import RUN_LOCK, HeldLock
from sourcetrace.tracking.history.kept_reports import keep_reports

PAGE = hashlib.sha256(b"page").hexdigest()


@pytest.fixture
def catalog(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = {"cleaning_report": "page.html", "gate_report": "gate.json", "gate_junit": "none.xml"}
    for name in ("page.html", "gate.json"):
        (tmp_path / name).write_text(name.partition(".")[0])
    entries = {name: SimpleNamespace(_filepath=tmp_path / file) for name, file in files.items()}
    return {**entries, "audit_log": SimpleNamespace(path=tmp_path / "audit_log.jsonl")}


def test_they_are_copied_in_place_of_an_earlier_audits(catalog, tmp_path):
    earlier = tmp_path / "versions/churn/3/old.html"
    earlier.parent.mkdir(parents=True)
    earlier.touch()
    assert keep_reports(catalog, "churn", "3", page_sha256=PAGE) == "versions/churn/3"
    kept = {file.name: file.read_text() for file in earlier.parent.iterdir()}
    assert kept == {"page.html": "page", "gate.json": "gate"}


def test_another_runs_are_not_taken_for_them(catalog, tmp_path):
    assert keep_reports(catalog, "churn", "3", page_sha256="0" * 64) is None
    other = HeldLock()
    assert other.acquire(tmp_path / RUN_LOCK, wait=False)
    assert keep_reports(catalog, "churn", "3", page_sha256=PAGE) is None
    assert not (tmp_path / "versions").exists()

"""What is stored can be asked for while a run replaces it, and says which node made it."""

from sourcetrace.datasets import audited
from sourcetrace.datasets.audited import AuditedDataset


def test_a_file_that_goes_while_it_is_looked_at_is_missing(tmp_path, monkeypatch):
    file = tmp_path / "result.json"
    stored = AuditedDataset({"type": "json.JSONDataset", "filepath": str(file)}, stage="this")
    stored.save({"a": 1})
    digest = audited.file_digest

    def gone(path):
        path.unlink()
        return digest(path)

    monkeypatch.setattr(audited, "file_digest", gone)
    fault = stored.fault()
    assert (fault.kind, fault.text) == ("damaged", f"{file} is missing")


def test_what_is_saved_once_more_is_not_taken_for_the_node_s(tmp_path):
    file = tmp_path / "result.json"
    stored = AuditedDataset({"type": "json.JSONDataset", "filepath": str(file)}, stage="this")
    stored.node = "0123"
    stored.save({"a": 1})
    assert stored.stands("0123")
    assert not stored.stands("4567")
    stored.save(stored.kept())
    assert stored.stands("0123")
    stored.save({"a": 2})
    assert not stored.stands("0123")

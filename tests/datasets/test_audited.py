"""What is stored can be asked for while a run replaces it."""

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

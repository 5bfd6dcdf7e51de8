"""Audits that MLflow was not told of yet, in a file until they are sent."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from filelock import FileLock

from sourcetrace.files import replacing
from sourcetrace.tracking.lineage.record import AuditRecord


def keep_pending(path: Path, record: AuditRecord) -> None:
    """Add an audit; one of the same run and time is replaced."""
    with _locked(path):
        _write(path, [*(one for one in _read(path) if not _same(one, record)), record.to_json()])


def remove_pending(path: Path, record: AuditRecord) -> None:
    """Remove an audit that was sent; the file goes with the last one."""
    with _locked(path):
        _write(path, [one for one in _read(path) if not _same(one, record)])


def is_pending(path: Path, record: AuditRecord) -> bool:
    """Return whether an audit waits."""
    return any(_same(one, record) for one in _read(path))


def sending(path: Path) -> FileLock:
    """Return the lock to hold while audits of this file are sent, one process at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path.with_name(f"{path.name}.sync.lock"))


def read_pending(path: Path) -> list[AuditRecord]:
    """Return what waits, oldest first; nothing where there is no file."""
    return [AuditRecord.from_json(one) for one in _read(path)]


def _same(content: dict[str, Any], record: AuditRecord) -> bool:
    return (content["run_id"], content["at"]) == (record.run_id, record.at)


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    content: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _write(path: Path, content: Iterable[dict[str, Any]]) -> None:
    records = list(content)
    if not records:
        path.unlink(missing_ok=True)
        return
    with replacing(path) as partial:
        partial.write_text(json.dumps(records, indent=1, ensure_ascii=False), encoding="utf-8")


def _locked(path: Path) -> FileLock:
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(f"{path}.lock")

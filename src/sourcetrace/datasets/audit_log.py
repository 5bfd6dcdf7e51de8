"""The history of audits, read as a table."""

from pathlib import Path
from typing import NoReturn

import polars as pl
from kedro.io import AbstractDataset

from sourcetrace.datasets.optional import InFile
from sourcetrace.schemas.audit_log import AuditLog


class AuditLogDataset(InFile, AbstractDataset[NoReturn, pl.DataFrame]):
    """JSON lines, oldest first; empty where nothing was audited. Audits add to it themselves.

    YAML:
        audit_log:
          type: sourcetrace.datasets.AuditLogDataset
          filepath: data/08_reporting/audit_log.jsonl

    Python:
        AuditLogDataset(filepath="data/08_reporting/audit_log.jsonl").load()
    """

    def __init__(self, filepath: str) -> None:
        self._filepath = Path(filepath)

    @property
    def path(self) -> Path:
        """The file."""
        return self._filepath

    def _load(self) -> pl.DataFrame:
        if not self._filepath.exists():
            return AuditLog.frame()
        return pl.read_ndjson(self._filepath, schema=AuditLog.columns())

    def _save(self, data: NoReturn) -> None:
        raise NotImplementedError("The audit log is only added to, by an audit's end.")

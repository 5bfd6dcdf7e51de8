"""The git revision of a project's folder."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from kedro.io import AbstractDataset

from sourcetrace.audit.identity.code_revision import CodeRevision


class CodeRevisionDataset(AbstractDataset[NoReturn, dict[str, Any]]):
    """`commit` and `dirty` of a git repository; empty outside one.

    YAML:
        code_revision:
          type: sourcetrace.datasets.CodeRevisionDataset
          path: .

    Python:
        CodeRevisionDataset(path=".").load()
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    def _load(self) -> dict[str, Any]:
        revision = CodeRevision.of(self._path)
        return {} if revision is None else asdict(revision)

    def _save(self, data: NoReturn) -> None:
        raise NotImplementedError("A revision is git's own; commit instead.")

    def _describe(self) -> dict[str, Any]:
        return {"path": str(self._path)}

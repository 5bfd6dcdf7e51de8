"""A run's folder on this machine, in which it waits until MLflow's server has all of it.

    pending_runs/<time>-<key>/mlflow.db     a store of MLflow's own: all that the run logged
    pending_runs/<time>-<key>/artifacts/    its files
    pending_runs/<time>-<key>/audit.json    what its audit says of data, checkpoints and version
    pending_runs/<time>-<key>/lock          held as long as the run is being written, or sent

Where MLflow is a local file there is no store of the run's own, and the folder holds the audit
alone, until MLflow has been told of it.
"""

import json
import shutil
import tempfile
import time
import uuid
from functools import cache
from pathlib import Path
from typing import Any, Self

import mlflow
from filelock import FileLock, Timeout
from mlflow.tracking import MlflowClient

from sourcetrace.files import replacing, write_json

FOLDER = "pending_runs"
"""Beside the history of audits."""

WITHOUT_HISTORY = Path("data/08_reporting")
"""Where runs wait of pipelines that have no history."""


class WaitingRun:
    """The folder of a run, which nobody else has until it is closed."""

    def __init__(self, folder: Path, lock: FileLock) -> None:
        self.folder, self._lock = folder, lock
        self._database, self._audit = folder / "mlflow.db", folder / "audit.json"

    @classmethod
    def begin(cls, root: Path) -> Self:
        """Make the folder of a new run."""
        folder = root / f"{time.strftime('%Y%m%dT%H%M%S')}-{uuid.uuid4().hex[:8]}"
        folder.mkdir(parents=True)
        lock = _lock_of(folder)
        lock.acquire()
        return cls(folder.absolute(), lock)

    @classmethod
    def open(cls, folder: Path) -> Self | None:
        """Return the run that waits in a folder; None where it is being written, or was sent."""
        lock = _lock_of(folder)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return None
        run = cls(folder.absolute(), lock)
        if not run.has_store and run.audit() is None:
            # Sent since it was listed.
            run.discard()
            return None
        return run

    @staticmethod
    def folders(root: Path) -> list[Path]:
        """Return the folders of runs that wait, or are being written, oldest first."""
        names = ("mlflow.db", "audit.json")
        return sorted({file.parent for name in names for file in root.glob(f"*/{name}")})

    @property
    def store(self) -> str:
        """Address of the run's own store."""
        return f"sqlite:///{self._database}"

    @property
    def has_store(self) -> bool:
        """Whether the run has a store of its own."""
        return self._database.exists()

    @property
    def artifacts(self) -> Path:
        """Folder of the run's files."""
        return self.folder / "artifacts"

    def make_store(self) -> None:
        """Give the run an empty store."""
        with replacing(self._database) as partial:
            shutil.copyfile(empty_store(), partial)

    @property
    def last_sign(self) -> int:
        """When the store was written to last, in milliseconds."""
        return int(self._database.stat().st_mtime * 1000)

    def keep_audit(self, content: dict[str, Any], *, log: str) -> None:
        """Keep what the audit says, in place of what it said before.

        Args:
            content: Of the audit's record.
            log: Name of the history's file.
        """
        write_json(self._audit, {"log": log, "record": content}, indent=1, ensure_ascii=False)

    def audit(self) -> tuple[Path, dict[str, Any]] | None:
        """Return the history and the record of the audit; None where there is none yet."""
        if not self._audit.exists():
            return None
        kept = json.loads(self._audit.read_text(encoding="utf-8"))
        return self.folder.parent.with_name(kept["log"]), kept["record"]

    def close(self) -> None:
        """Let `sourcetrace sync` have the run."""
        self._lock.release()

    def discard(self) -> None:
        """Forget the run; a kill in the middle leaves nothing that counts."""
        self._audit.unlink(missing_ok=True)
        self._database.unlink(missing_ok=True)
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)


@cache
def empty_store() -> Path:
    """Return a store of MLflow's without a run; making one takes MLflow a second, copying none."""
    try:
        return _make_empty_store(Path.home() / ".cache/sourcetrace")
    except (OSError, RuntimeError):
        # No home, or one that nobody may write to.
        return _make_empty_store(Path(tempfile.mkdtemp(prefix="sourcetrace-")))


def _make_empty_store(folder: Path) -> Path:
    file = folder / f"mlflow-{mlflow.__version__}.db"
    if not file.exists():
        with replacing(file) as partial:
            MlflowClient(f"sqlite:///{partial}").search_experiments(max_results=1)
    return file


def _lock_of(folder: Path) -> FileLock:
    return FileLock(folder / "lock", thread_local=False)

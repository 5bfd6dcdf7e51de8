"""What a run could not tell MLflow's server, kept in a folder until `sourcetrace sync` sends it.

    pending_runs/<id>/journal.jsonl    a line for every call, in their order
    pending_runs/<id>/artifacts/       copies of the files, where the run has them
    pending_runs/<id>/lock             held as long as the run is being written

Lines are only ever added, each by one write; one that a kill left unfinished is dropped when the
journal is read. A file is copied beside its place first, so that none is ever half there.
"""

import json
import os
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout
from mlflow.entities import (
    LifecycleStage,
    Metric,
    Param,
    Run,
    RunData,
    RunInfo,
    RunStatus,
    RunTag,
)

FOLDER = "pending_runs"
"""Beside the history of audits."""

RUN_KEY = "sourcetrace.run_key"
"""Tag by which a run is found again whose id the server never told, or nobody heard."""

UNKNOWN_EXPERIMENT = "waiting"
"""Stands for the id of an experiment that the server could not be asked for."""

_JOURNAL, _ARTIFACTS = "journal.jsonl", "artifacts"
_METRIC = ("key", "value", "timestamp", "step", "model_id", "dataset_name", "dataset_digest")


@dataclass
class WaitingRun:
    """A run as its journal tells it.

    Attributes:
        folder: Of the journal; its name is the run's id on this machine.
        key: Value of the run's tag `RUN_KEY`.
        run_id: On the server; None where the server has not been told of the run.
        experiment: Name, where it is known.
        experiment_id: On the server; None where the server was never asked.
        name, user, start_time: Of the run.
        status, end_time: As told last.
        params, tags, metrics: In the order in which they came.
        dropped_tags: Tags that were taken away.
        last: When the journal was written last, in milliseconds.
        sent: Whether the server has all of it.
    """

    folder: Path
    key: str
    run_id: str | None
    experiment: str | None
    experiment_id: str | None
    name: str | None
    user: str
    start_time: int
    status: str = "RUNNING"
    end_time: int | None = None
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    dropped_tags: set[str] = field(default_factory=set)
    metrics: list[Metric] = field(default_factory=list)
    last: int = 0
    sent: bool = False

    @property
    def local_id(self) -> str:
        """Id that the run has on this machine."""
        return self.folder.name

    @property
    def artifacts(self) -> Path:
        """Folder of the files that wait, as the run has them."""
        return self.folder / _ARTIFACTS

    def apply(self, line: Mapping[str, Any]) -> None:
        """Take over what a line of the journal says."""
        self.last = line["at"]
        match line["kind"]:
            case "log":
                self.params |= line.get("params", {})
                self.tags |= line.get("tags", {})
                self.dropped_tags -= set(line.get("tags", {}))
                self.metrics += [Metric(**one) for one in line.get("metrics", [])]
            case "untag":
                self.tags.pop(line["key"], None)
                self.dropped_tags.add(line["key"])
            case "status":
                self.status = line["status"]
                self.end_time = line["end_time"]
                self.name = line["name"] or self.name
            case "created":
                self.run_id = line["run_id"]
            case "sent":
                self.sent = True

    def to_run(self, before: Run | None) -> Run:
        """Return the run as MLflow has it.

        Args:
            before: The run as the server knew it, where it did.
        """
        info = RunInfo(
            run_id=self.local_id,
            experiment_id=self.experiment_id or UNKNOWN_EXPERIMENT,
            user_id=self.user,
            status=self.status,
            start_time=self.start_time,
            end_time=self.end_time,
            lifecycle_stage=LifecycleStage.ACTIVE,
            artifact_uri=before.info.artifact_uri if before else self.artifacts.as_uri(),
            run_name=self.name,
        )
        known = before.data if before else RunData()
        metrics = {key: Metric(key, value, 0, 0) for key, value in known.metrics.items()}
        metrics |= {metric.key: metric for metric in self.metrics}
        data = RunData(
            metrics=list(metrics.values()),
            params=[Param(*one) for one in (known.params | self.params).items()],
            tags=[
                RunTag(*one)
                for one in (known.tags | self.tags).items()
                if one[0] not in self.dropped_tags
            ],
        )
        return Run(info, data, before.inputs if before else None)


class Journal:
    """Writes what a run could not tell the server."""

    def __init__(self, run: WaitingRun, lock: FileLock) -> None:
        self.run, self._lock = run, lock

    @classmethod
    def begin(cls, run: WaitingRun) -> Self:
        """Start the journal of a run, and hold it until `close`."""
        run.folder.mkdir(parents=True, exist_ok=True)
        lock = _lock(run.folder)
        lock.acquire()
        first = {
            name: getattr(run, name)
            for name in ("key", "run_id", "experiment", "experiment_id", "name", "user")
        }
        line = {"kind": "run", "at": _now(), **first, "start_time": run.start_time}
        partial = run.folder / f"{_JOURNAL}.partial"
        partial.write_text(json.dumps(line) + "\n", encoding="utf-8")
        os.replace(partial, run.folder / _JOURNAL)
        return cls(run, lock)

    def log(
        self,
        *,
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        metrics: list[Metric] | None = None,
    ) -> None:
        """Keep parameters, tags and metrics."""
        told = [{name: getattr(one, name) for name in _METRIC} for one in metrics or []]
        self._append("log", params=dict(params or {}), tags=dict(tags or {}), metrics=told)

    def drop_tag(self, key: str) -> None:
        """Keep that a tag was taken away."""
        self._append("untag", key=key)

    def set_status(self, status: int, end_time: int | None, name: str | None) -> None:
        """Keep how the run stands, as MLflow numbers it."""
        self._append("status", status=RunStatus.to_string(status), end_time=end_time, name=name)

    def keep_file(self, file: Path, folder: str | None) -> None:
        """Copy a file to where the run has it; a later audit may write over the original."""
        place = self.run.artifacts / (folder or "") / file.name
        if not place.resolve().is_relative_to(self.run.artifacts.resolve()):
            raise ValueError(f"{folder} is not inside a run's artifacts.")
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = self.run.folder / f"{file.name}.partial"
        shutil.copyfile(file, partial)
        os.replace(partial, place)

    def note_created(self, run_id: str) -> None:
        """Keep the id that the server gave the run."""
        self._append("created", run_id=run_id)

    def note_sent(self) -> None:
        """Keep that the server has all of the run."""
        self._append("sent")

    def close(self) -> None:
        """Let `sourcetrace sync` have the run."""
        self._lock.release()

    def discard(self) -> None:
        """Forget the run; a kill in the middle leaves nothing that counts."""
        (self.run.folder / _JOURNAL).unlink(missing_ok=True)
        self.close()
        shutil.rmtree(self.run.folder, ignore_errors=True)

    def _append(self, kind: str, **content: Any) -> None:
        line = {"kind": kind, "at": _now(), **content}
        self.run.apply(line)
        # A run that was sent in the meantime is not begun again by its last words.
        with suppress(FileNotFoundError), (self.run.folder / _JOURNAL).open("rb+") as file:
            file.seek(0, os.SEEK_END)
            file.write((json.dumps(line) + "\n").encode())


def waiting_runs(folder: Path) -> list[Path]:
    """Return the folders of runs that wait, oldest first."""
    found = [file for file in folder.glob(f"*/{_JOURNAL}") if file.is_file()]
    return [file.parent for file in sorted(found, key=lambda file: (_began(file), file))]


def open_journal(folder: Path) -> Journal | None:
    """Read a run's journal and hold it; None where the run is still being written."""
    lock = _lock(folder)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    file = folder / _JOURNAL
    whole, _, unfinished = file.read_bytes().rpartition(b"\n")
    if unfinished:
        os.truncate(file, len(whole) + 1)
    first, *lines = [json.loads(line) for line in whole.splitlines()]
    values = {name: value for name, value in first.items() if name not in {"kind", "at"}}
    run = WaitingRun(folder=folder, last=first["at"], **values)
    for line in lines:
        run.apply(line)
    return Journal(run, lock)


def _began(file: Path) -> int:
    with file.open(encoding="utf-8") as lines:
        start: int = json.loads(lines.readline())["start_time"]
    return start


def _lock(folder: Path) -> FileLock:
    return FileLock(folder / "lock", thread_local=False)


def _now() -> int:
    return time.time_ns() // 1_000_000

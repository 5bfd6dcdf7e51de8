"""What is kept of earlier audits: a JSON and a parquet file each, in one folder."""

import hashlib
import io
import json
import logging
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
from filelock import FileLock
from kedro.io import AbstractDataset

from sourcetrace.audit.comparison.snapshot import AuditFigures, AuditSnapshot
from sourcetrace.files import replacing, write_json

logger = logging.getLogger(__name__)

_VERSION = 1


class AuditSnapshots:
    """The folder; audits of several tasks and models may share it, and processes too.

    An audit is there when its JSON file is, which is written last and names its parquet file. Files
    are numbered, so that a clock that goes backwards does no harm.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def history(self, series: tuple[str, str | None]) -> list[AuditFigures]:
        """Return the audits of one task and model, oldest first."""
        return [figures for _, figures, _ in self._kept() if figures.series == series]

    def examples(self, figures: AuditFigures) -> pl.DataFrame:
        """Return the examples of an audit of the history."""
        name = next(name for _, kept, name in self._kept() if kept == figures)
        return pl.read_parquet(self._folder / name)

    def add(self, snapshot: AuditSnapshot) -> None:
        """Keep an audit, in place of the newest of its series where that is the same audit.

        That one's place and time stay: an audit that is reported again did not end again.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self._folder / ".lock"):
            kept = self._kept()
            own = [one for one in kept if one[1].series == snapshot.figures.series]
            at = datetime.now(UTC).isoformat(timespec="seconds")
            number = 1 + max((number for number, _, _ in kept), default=0)
            if own and own[-1][1].identity == snapshot.figures.identity:
                number, at = own[-1][0], own[-1][1].point.at
                own.pop()
            figures = replace(snapshot.figures, point=replace(snapshot.figures.point, at=at))
            self._write(number, figures, snapshot.examples)
            for old, _, _ in own[: max(0, len(own) + 1 - snapshot.keep)]:
                self._json(old).unlink()
            self._remove_unnamed()

    def _write(self, number: int, figures: AuditFigures, examples: pl.DataFrame) -> None:
        written = io.BytesIO()
        examples.write_parquet(written)
        # By its content, so that the file that the JSON still names is never written to.
        name = f"{number:06d}-{hashlib.sha256(written.getbuffer()).hexdigest()[:12]}.parquet"
        with replacing(self._folder / name) as partial:
            partial.write_bytes(written.getbuffer())
        content = {"version": _VERSION, "examples": name, "audit": figures.to_json()}
        write_json(self._json(number), content, indent=1, ensure_ascii=False)

    def _kept(self) -> list[tuple[int, AuditFigures, str]]:
        """Return number, figures and name of the parquet file of every audit, oldest first."""
        found = (self._read(file) for file in sorted(self._folder.glob("[0-9]*.json")))
        return [one for one in found if one is not None]

    def _read(self, file: Path) -> tuple[int, AuditFigures, str] | None:
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            name = str(content["examples"])
            if content["version"] != _VERSION or not (self._folder / Path(name).name).is_file():
                raise ValueError(f"version {content['version']}, examples in {name}")
            return int(file.stem), AuditFigures.from_json(content["audit"]), Path(name).name
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("%s is no kept audit and is left out of the comparison: %s", file, error)
            return None

    def _remove_unnamed(self) -> None:
        """Remove parquet files without a JSON file: of old audits, and of killed ones."""
        named = {name for _, _, name in self._kept()}
        for file in self._folder.glob("[0-9]*.parquet"):
            if file.name not in named:
                file.unlink()

    def _json(self, number: int) -> Path:
        return self._folder / f"{number:06d}.json"


class AuditSnapshotsDataset(AbstractDataset[AuditSnapshot, AuditSnapshots]):
    """Hands out the folder of earlier audits, and adds the audit that it is given.

    YAML:
        audit_snapshots:
          type: sourcetrace.datasets.AuditSnapshotsDataset
          path: data/08_reporting/audit_snapshots

    Python:
        AuditSnapshotsDataset(path="audit_snapshots").load().history(("my.Task", None))
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    def _load(self) -> AuditSnapshots:
        return AuditSnapshots(self._path)

    def _save(self, data: AuditSnapshot) -> None:
        AuditSnapshots(self._path).add(data)

    def _exists(self) -> bool:
        return self._path.is_dir()

    def _describe(self) -> dict[str, Any]:
        return {"path": str(self._path)}

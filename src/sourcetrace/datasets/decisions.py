"""Decisions: the file that somebody hands in, and the log to which its lines are added."""

import os
from pathlib import Path
from typing import Any

import polars as pl
from filelock import FileLock
from kedro.io import AbstractDataset

from sourcetrace.audit.decisions.spreadsheet import read_decisions_file
from sourcetrace.datasets.optional import InFile
from sourcetrace.errors import InputError
from sourcetrace.files import replacing
from sourcetrace.schemas.decisions import DecisionLog


class DecisionsFileDataset(AbstractDataset[pl.DataFrame, pl.DataFrame]):
    """The decided rows of a CSV file, as text; none where no path is given.

    YAML:
        decisions_file:
          type: sourcetrace.datasets.DecisionsFileDataset
          filepath: ${parameter:decisions.path}

    Python:
        DecisionsFileDataset("decisions.csv").load()
    """

    _drawn = False

    def __init__(self, filepath: str | None) -> None:
        self._filepath = None if filepath is None else Path(filepath)

    def _load(self) -> pl.DataFrame:
        if self._filepath is None or (self._drawn and not self._filepath.exists()):
            return read_decisions_file(_NO_ROWS, called="")
        try:
            content = self._filepath.read_bytes()
        except OSError as error:
            raise InputError(
                f"decisions.path: {self._filepath} cannot be read: {error.strerror}. Name the file "
                "that the page exported, or review_list.csv with your decisions."
            ) from error
        rows = read_decisions_file(content, called=str(self._filepath))
        return rows if self._drawn else rows.filter(pl.col("decision") != "")

    def _save(self, data: pl.DataFrame) -> None:
        raise NotImplementedError("A person writes it.")

    def _exists(self) -> bool:
        return self._filepath is not None and self._filepath.exists()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}


class ReviewSampleDataset(DecisionsFileDataset):
    """All rows of one that is written for somebody to fill in, where there are rows to write.

    YAML:
        review_sample:
          type: sourcetrace.datasets.ReviewSampleDataset
          filepath: data/08_reporting/review_sample.csv

    Python:
        ReviewSampleDataset("review_sample.csv").load()
    """

    _drawn = True

    def _save(self, data: pl.DataFrame) -> None:
        if self._filepath is not None and not data.is_empty():
            with replacing(self._filepath) as partial:
                data.write_csv(partial)


class DecisionLogDataset(InFile, AbstractDataset[pl.DataFrame, pl.DataFrame]):
    """JSON lines, oldest first, that are only ever added to: what is saved is added.

    A line that a killed writer left unfinished does not count, and is removed by the next.

    YAML:
        decision_log:
          type: sourcetrace.datasets.DecisionLogDataset
          filepath: data/08_reporting/decisions.jsonl

    Python:
        DecisionLogDataset("decisions.jsonl").load()
    """

    def __init__(self, filepath: str) -> None:
        self._filepath = Path(filepath)

    def _load(self) -> pl.DataFrame:
        lines = self._complete_lines()
        if not lines:
            return DecisionLog.frame()
        try:
            return pl.read_ndjson(lines, schema=DecisionLog.columns())
        except pl.exceptions.PolarsError as error:
            raise InputError(
                f"{self._filepath} is damaged: {error}. Put it back as it was; it is only added to."
            ) from error

    def _save(self, data: pl.DataFrame) -> None:
        if data.is_empty():
            return
        self._filepath.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self._filepath}.lock"), self._filepath.open("ab") as file:
            os.truncate(self._filepath, len(self._complete_lines()))
            file.write(data.write_ndjson().encode())
            file.flush()
            os.fsync(file.fileno())

    def _complete_lines(self) -> bytes:
        content = self._filepath.read_bytes() if self._exists() else b""
        return content[: content.rfind(b"\n") + 1]


_NO_ROWS = b"example_id,content_digest,decision\n"

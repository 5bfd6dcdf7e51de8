"""Files that another pipeline, or a person, may have written, or not yet."""

import importlib
from pathlib import Path
from typing import Any

import polars as pl
from kedro.io import AbstractDataset

from sourcetrace.errors import InputError
from sourcetrace.files import read_optional_json, replacing, write_json
from sourcetrace.schemas.table import Table


class InFile:
    """What data sets of one file have in common; hooks and MLflow find it by the attribute."""

    _filepath: Path

    def _exists(self) -> bool:
        return self._filepath.exists()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}


class OptionalJSONDataset(AbstractDataset[Any, Any]):
    """A JSON file; None where there is none, or no path is given.

    YAML:
        gate_baseline:
          type: sourcetrace.datasets.OptionalJSONDataset
          filepath: ${parameter:gate.baseline}
          read_only: true

    Python:
        OptionalJSONDataset("approved/gate.json").load()
    """

    def __init__(self, filepath: str | None, *, read_only: bool = False) -> None:
        self._filepath = None if filepath is None else Path(filepath)
        self._read_only = read_only

    def _load(self) -> Any:
        return read_optional_json(self._filepath)

    def _save(self, data: Any) -> None:
        if self._filepath is None or self._read_only:
            raise InputError(
                f"{self._filepath} is only read: somebody approves it. Copy the file there "
                "yourself."
            )
        write_json(self._filepath, data, indent=2, ensure_ascii=False)

    def _exists(self) -> bool:
        return self._filepath is not None and self._filepath.exists()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}


class OptionalParquetDataset(InFile, AbstractDataset[pl.DataFrame, pl.DataFrame]):
    """A parquet file; where there is none, an empty table of the schema's columns.

    YAML:
        verification_summary:
          type: sourcetrace.datasets.OptionalParquetDataset
          filepath: data/08_reporting/verification_summary.parquet
          schema: sourcetrace.schemas.VerificationSummary

    Python:
        OptionalParquetDataset("summary.parquet", "sourcetrace.schemas.VerificationSummary").load()
    """

    def __init__(self, filepath: str, schema: str) -> None:
        self._filepath = Path(filepath)
        self._schema = schema

    def _load(self) -> pl.DataFrame:
        if self._filepath.exists():
            return pl.read_parquet(self._filepath)
        module, name = self._schema.rsplit(".", 1)
        table: type[Table] = getattr(importlib.import_module(module), name)
        return table.frame()

    def _save(self, data: pl.DataFrame) -> None:
        with replacing(self._filepath) as partial:
            data.write_parquet(partial)

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath), "schema": self._schema}

"""A table that another pipeline may have written, or not yet."""

import importlib
from pathlib import Path
from typing import Any

import polars as pl
from kedro.io import AbstractDataset

from sourcetrace.files import replacing
from sourcetrace.schemas.table import Table


class OptionalParquetDataset(AbstractDataset[pl.DataFrame, pl.DataFrame]):
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

    def _exists(self) -> bool:
        return self._filepath.exists()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath), "schema": self._schema}

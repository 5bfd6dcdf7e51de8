"""A table that another pipeline may have written, or not yet."""

import importlib
import os
from pathlib import Path
from typing import Any

import polars as pl
from kedro.io import AbstractDataset


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
        columns = getattr(importlib.import_module(module), name).to_schema().columns
        return pl.DataFrame(schema={key: column.dtype.type for key, column in columns.items()})

    def _save(self, data: pl.DataFrame) -> None:
        self._filepath.parent.mkdir(parents=True, exist_ok=True)
        partial = self._filepath.with_suffix(".partial")
        data.write_parquet(partial)
        os.replace(partial, self._filepath)

    def _exists(self) -> bool:
        return self._filepath.exists()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath), "schema": self._schema}

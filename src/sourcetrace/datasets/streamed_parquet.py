"""A table in one parquet file that is written from a lazy frame, a part of it in memory."""

from pathlib import Path
from typing import Any

import polars as pl
from kedro.io import AbstractDataset

from sourcetrace.files import replacing


class StreamedParquetDataset(AbstractDataset[pl.LazyFrame | pl.DataFrame, pl.LazyFrame]):
    """A lazy frame, written to a file as a stream, and scanned when it is loaded.

    YAML:
        example_signals:
          type: sourcetrace.datasets.StreamedParquetDataset
          filepath: data/04_feature/example_signals.parquet

    Python:
        StreamedParquetDataset("signals.parquet").save(pl.scan_parquet(["a.parquet", "b.parquet"]))
    """

    def __init__(self, filepath: str) -> None:
        self._filepath = Path(filepath)

    def _load(self) -> pl.LazyFrame:
        return pl.scan_parquet(self._filepath, glob=False)

    def _save(self, data: pl.LazyFrame | pl.DataFrame) -> None:
        with replacing(self._filepath) as partial:
            data.lazy().sink_parquet(partial)

    def _exists(self) -> bool:
        return self._filepath.exists()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}

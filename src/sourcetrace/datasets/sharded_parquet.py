"""A table written and read as numbered parquet files, one a range of rows."""

from pathlib import Path
from typing import Any

import polars as pl
from kedro.io import AbstractDataset

from sourcetrace.datasets.optional import InFile
from sourcetrace.files import link_file, replacing
from sourcetrace.work.unit import KeptFile


class ShardedParquetDataset(AbstractDataset[pl.DataFrame | KeptFile, pl.DataFrame | pl.LazyFrame]):
    """Appends one file a save, for nodes that yield a table part by part.

    A part that a unit of work keeps is linked, not copied.

    The first save of a run removes the files of the run before, so a table is never a mixture
    of two. Read by name, the files are in the order in which they were saved.

    Args:
        path: The folder.
        lazy: Whether a load scans the files, for nodes that read some of the columns.

    YAML:
        attribution_scores:
          type: sourcetrace.datasets.ShardedParquetDataset
          path: data/07_model_output/attribution_scores

    Python:
        dataset = ShardedParquetDataset(path="scores")
        dataset.save(pl.DataFrame({"example_id": ["a"]}))
    """

    def __init__(self, path: str, *, lazy: bool = False) -> None:
        self._path, self._lazy = Path(path), lazy
        self._saved = 0

    def _load(self) -> pl.DataFrame | pl.LazyFrame:
        files = sorted(self._path.glob("part-*.parquet"))
        table = pl.scan_parquet(files, glob=False, hive_partitioning=False)
        return table if self._lazy else table.collect()

    def _save(self, data: pl.DataFrame | KeptFile) -> None:
        self._path.mkdir(parents=True, exist_ok=True)
        if self._saved == 0:
            for old in self._path.glob("part-*.parquet"):
                old.unlink()
        target = self._path / f"part-{self._saved:06d}.parquet"
        if isinstance(data, KeptFile):
            link_file(data.path, target)
        else:
            with replacing(target) as partial:
                data.write_parquet(partial)
        self._saved += 1

    def _exists(self) -> bool:
        return any(self._path.glob("part-*.parquet"))

    def _describe(self) -> dict[str, Any]:
        return {"path": str(self._path)}


class StreamedParquetDataset(InFile, AbstractDataset[pl.LazyFrame | pl.DataFrame, pl.LazyFrame]):
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

"""The demo's task makes queries of a file, and refuses what holds no scans."""

import polars as pl
import pytest

from sourcetrace.errors import InputError
from sourcetrace.tasks.digits import DigitsTask

SCANS = pl.DataFrame(
    {"example_id": ["a", "b"], "pixels": [[0.0] * 64, [0.5] * 64], "label": [3, 8]},
    schema_overrides={"pixels": pl.Array(pl.Float32, 64)},
)


def test_further_queries_come_from_a_file(tmp_path):
    task = DigitsTask(SCANS, SCANS)
    SCANS.reverse().write_parquet(tmp_path / "more.parquet")
    items, table = task.queries_of(str(tmp_path / "more.parquet"))
    assert table.rows() == [("b", 8), ("a", 3)]
    assert [float(items[0][0].mean()), int(items[0][1])] == [0.5, 8]
    SCANS.drop("pixels").write_csv(tmp_path / "no.csv")
    SCANS.drop("pixels").write_parquet(tmp_path / "no.parquet")
    for wrong in (str(tmp_path / "no.csv"), str(tmp_path / "no.parquet"), {"text": "seven"}):
        with pytest.raises(InputError, match="holds no scans: expected a parquet file of"):
            task.queries_of(wrong)

"""What a table of scores may hold is checked before it is kept."""

import polars as pl
import pytest
from kedro.validation import DataValidationError

from sourcetrace.pipelines.source_scoring.tables import write_table


@pytest.mark.parametrize("scores", [float("nan"), float("inf")])
def test_what_does_not_fit_is_refused_by_the_table_s_name_and_not_written(tmp_path, scores):
    table = pl.DataFrame({"example_id": ["e0", "e1"], "self_influence": [1.0, 2.0]})
    write_table(tmp_path / "kept.parquet", "self_influence", table)
    assert pl.read_parquet(tmp_path / "kept.parquet").equals(table)
    twice = table.with_columns(example_id=pl.lit("e0"))
    with pytest.raises(DataValidationError, match=r"(?s)self_influence.*unique"):
        write_table(tmp_path / "part.parquet", "self_influence", twice)
    values = pl.Series([[scores, 1.0]] * 2, dtype=pl.Array(pl.Float32, 2))
    rows = pl.DataFrame({"example_id": ["e0", "e1"], "scores": values})
    with pytest.raises(DataValidationError, match=r"(?s)attribution_scores.*finite"):
        write_table(tmp_path / "part.parquet", "attribution_scores", rows)
    assert [file.name for file in tmp_path.iterdir()] == ["kept.parquet"]

"""What a table of scores may hold is checked before it is kept."""

import polars as pl
import pytest
from kedro.validation import DataValidationError

from sourcetrace.pipelines.source_scoring.tables import check_table


@pytest.mark.parametrize("scores", [float("nan"), float("inf")])
def test_what_does_not_fit_is_refused_by_the_table_s_name(scores):
    table = pl.DataFrame({"example_id": ["e0", "e1"], "self_influence": [1.0, 2.0]})
    check_table("self_influence", table)
    twice = table.with_columns(example_id=pl.lit("e0"))
    with pytest.raises(DataValidationError, match=r"(?s)self_influence.*unique"):
        check_table("self_influence", twice)
    values = pl.Series([[scores, 1.0]] * 2, dtype=pl.Array(pl.Float32, 2))
    rows = pl.DataFrame({"example_id": ["e0", "e1"], "scores": values})
    with pytest.raises(DataValidationError, match=r"(?s)attribution_scores.*finite"):
        check_table("attribution_scores", rows)

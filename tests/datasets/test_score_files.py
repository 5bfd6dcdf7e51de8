"""How scores are kept, and what reading them gives."""

import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sourcetrace.datasets.score_files import ScoreFiles, score_columns, stored_scores
from sourcetrace.schemas import AttributionScores

SCORES = arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.integers(1, 4)),
    elements=st.floats(-(2.0**100), 2.0**100, width=32),
)


def table_of(scores, precision):
    ids = pl.Series("example_id", [f"e{i}" for i in range(len(scores))])
    return pl.DataFrame([ids, *score_columns(scores, precision)])


@settings(derandomize=True, deadline=None, max_examples=100)
@given(SCORES)
def test_a_half_is_off_by_its_rounding_however_small_scores_are(scores):
    table = AttributionScores.validate(table_of(scores, "float16"))
    with tempfile.TemporaryDirectory() as folder:
        table.write_parquet(Path(folder) / "part-000000.parquet")
        ((ids, read),) = ScoreFiles(Path(folder)).blocks()
    assert ids.to_list() == table["example_id"].to_list()
    assert read.dtype == np.float32
    wanted, read = scores.astype(np.float64), read.astype(np.float64)
    largest = np.abs(wanted).max(1, keepdims=True)
    # Below 2**-126 float32 itself has fewer digits.
    allowed = 2.0**-11 * np.abs(wanted) + 2.0**-39 * largest + 2.0**-149
    assert (np.abs(read - wanted) <= allowed).all()


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_one_query_is_a_column_of_all(precision):
    scores = np.array([[1, -2, 3], [0, 0, 0], [1e-20, 5e-20, -1e-20]], np.float32)
    table = table_of(scores, precision).lazy()
    whole = table.select(stored_scores(table)).collect().to_series()
    assert whole.dtype == pl.Array(pl.Float32, 3)
    np.testing.assert_allclose(whole.to_numpy(), scores, rtol=2**-11)
    for query in range(3):
        alone = table.select(stored_scores(table, query)).collect().to_series()
        assert alone.to_list() == whole.to_numpy()[:, query].tolist()


def test_float32_is_kept_as_it_is():
    scores = np.array([[0.1, 1e-40]], np.float32)
    table = table_of(scores, "float32")
    assert table.columns == ["example_id", "scores"]
    assert (table["scores"].to_numpy() == scores).all()


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_no_number_is_refused_in_any_precision(wrong):
    for precision in ("float32", "float16"):
        with pytest.raises(Exception, match="finite numbers"):
            AttributionScores.validate(
                table_of(np.array([[1, wrong]], np.float32), precision), lazy=True
            )

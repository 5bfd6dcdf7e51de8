"""How scores are kept, and what reading them gives."""

import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sourcetrace.datasets.score_files import (
    ScoreFiles,
    merge_strongest,
    score_columns,
    stored_scores,
    strongest_of,
)
from sourcetrace.errors import InputError
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


FEW = arrays(
    np.float32,
    st.tuples(st.integers(1, 12), st.integers(1, 3)),
    elements=st.sampled_from([-2.0, -1.0, -0.0, 0.0, 1.0, 2.0]),
)


def sorted_strongest(scores, count, higher):
    """Return what `strongest_of` should, by sorting every query's scores."""
    rows = []
    for query, column in enumerate(scores.T.tolist()):
        for side, sign in (("helper", -1), ("harmer", 1)):
            gains = [sign * (score if higher else -score) for score in column]
            order = sorted(range(len(gains)), key=lambda i: -gains[i])
            strongest = [i for i in order if gains[i] > 0][:count]
            rows += [(query, side, rank, f"e{i}", column[i]) for rank, i in enumerate(strongest, 1)]
    return rows


@settings(derandomize=True, deadline=None, max_examples=150)
@given(FEW, st.integers(1, 5), st.lists(st.integers(0, 12), max_size=4), st.booleans())
def test_merged_parts_have_the_strongest_of_all_of_equal_ones_the_first(
    scores, count, cuts, higher
):
    ids = pl.Series([f"e{i}" for i in range(len(scores))])
    ends = [*sorted({min(cut, len(scores)) for cut in cuts}), len(scores)]
    blocks = [
        (ids[start:end], scores[start:end]) for start, end in zip([0, *ends], ends, strict=False)
    ]
    expected = sorted_strongest(scores, count, higher)
    together = strongest_of(blocks, count, higher_is_better=higher)
    parts = [strongest_of([one], count, higher_is_better=higher) for one in blocks]
    for found in (together, merge_strongest(parts, count)):
        assert [tuple(row) for row in found.iter_rows()] == expected


def test_what_needs_all_scores_says_what_to_set_where_they_are_not_kept(tmp_path):
    table = pl.DataFrame({"example_id": ["a", "b"], "scores_digest": "0"})
    AttributionScores.validate(table).write_parquet(tmp_path / "part-000000.parquet")
    files = ScoreFiles(tmp_path)
    assert not files.are_kept
    needs = (
        files.require,
        lambda: next(files.blocks()),
        lambda: files.sums_over(pl.Series([[0]])),
        lambda: files.strongest([0], 1, higher_is_better=True),
    )
    for need in needs:
        with pytest.raises(InputError, match=r"Set attribution\.precision\.stored_scores to"):
            need()
    digest = files.digest()
    table.with_columns(scores_digest=pl.lit("1")).write_parquet(tmp_path / "part-000000.parquet")
    assert ScoreFiles(tmp_path).digest() != digest
    with pytest.raises(Exception, match="finite numbers"):
        AttributionScores.validate(table.drop("scores_digest"), lazy=True)

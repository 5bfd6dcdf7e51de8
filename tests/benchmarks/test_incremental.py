"""How near a full audit another one is."""

import polars as pl
import pytest
from benchmarks.incremental import correlations


def _audit(scores: list[list[float]], harm: list[float]) -> pl.DataFrame:
    return pl.DataFrame({"scores": pl.Series(scores, dtype=pl.Array(pl.Float32, 2)), "harm": harm})


def test_correlations_are_of_all_scores_of_queries_and_of_harm() -> None:
    one = _audit([[1, 10], [2, 20], [3, 30]], [1, 2, 3])
    assert correlations(one, one) == pytest.approx([1, 1, 1, 1])
    other = _audit([[1, 30], [2, 20], [3, 10]], [3, 2, 1])
    _, mean, least, harm = correlations(other, one)
    assert (mean, least, harm) == pytest.approx((0, -1, -1))

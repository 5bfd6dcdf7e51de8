"""Score files and tables that may be missing."""

import numpy as np
import polars as pl
import pytest

from sourcetrace.datasets import (
    OptionalParquetDataset,
    ShardedParquetDataset,
)
from sourcetrace.datasets.score_files import ScoreFiles
from sourcetrace.schemas import VerificationOutcomes, VerificationPlan, VerificationSummary


def write_scores(folder, ids, values, sizes):
    dataset = ShardedParquetDataset(str(folder))
    start = 0
    for size in sizes:
        rows = slice(start, start + size)
        column = pl.Series("scores", values[rows], dtype=pl.Array(pl.Float32, values.shape[1]))
        dataset.save(pl.DataFrame({"example_id": ids[rows], "scores": column}))
        start += size
    return ScoreFiles(folder)


def test_the_digest_is_of_the_ids_and_the_scores(tmp_path):
    values = np.arange(12, dtype=np.float32).reshape(4, 3)
    ids = ["a", "b", "c", "d"]
    digest = write_scores(tmp_path / "1", ids, values, [1, 3]).digest()
    assert write_scores(tmp_path / "2", ids, values, [1, 3]).digest() == digest
    assert write_scores(tmp_path / "3", ["a", "b", "d", "c"], values, [1, 3]).digest() != digest
    changed = values.copy()
    changed[2, 1] += 1e-3
    assert write_scores(tmp_path / "4", ids, changed, [1, 3]).digest() != digest


@pytest.mark.parametrize("model", [VerificationSummary, VerificationPlan, VerificationOutcomes])
def test_a_table_that_nobody_wrote_is_empty_and_valid(tmp_path, model):
    path = f"sourcetrace.schemas.{model.__name__}"
    dataset = OptionalParquetDataset(str(tmp_path / "table.parquet"), path)
    assert not dataset.exists()
    empty = dataset.load()
    assert model.validate(empty).height == 0
    dataset.save(empty)
    assert dataset.exists()
    assert dataset.load().equals(empty)


@pytest.mark.parametrize("higher_is_better", [True, False])
@pytest.mark.parametrize("sizes", [[40], [1, 7, 32], [20, 20]])
def test_the_strongest_are_those_of_a_sorted_table_whatever_the_files(
    tmp_path, sizes, higher_is_better
):
    rng = np.random.default_rng(0)
    # Few values, so that many are equal, and some change nothing.
    values = rng.integers(-3, 4, (40, 5)).astype(np.float32)
    values[:, 4] = np.abs(values[:, 4])
    ids = [f"e{i}" for i in range(40)]
    queries = [4, 0, 2]
    found = write_scores(tmp_path, ids, values, sizes).strongest(
        queries, 6, higher_is_better=higher_is_better
    )
    expected = []
    for place, query in enumerate(queries):
        gains = values[:, query] if higher_is_better else -values[:, query]
        for side, sign in (("helper", -1), ("harmer", 1)):
            order = sorted(range(40), key=lambda i: -sign * gains[i])
            strongest = [i for i in order if sign * gains[i] > 0][:6]
            expected += [
                (place, side, rank, ids[i], float(values[i, query]))
                for rank, i in enumerate(strongest, 1)
            ]
    assert [tuple(row) for row in found.iter_rows()] == expected


def test_sums_are_of_the_groups_whatever_the_files(tmp_path):
    values = np.array([[1, -2], [-3, 4], [5, -6]], np.float32)
    scores = write_scores(tmp_path, ["a", "b", "c"], values, [2, 1])
    groups = pl.Series([[0, 2], [1]])
    assert scores.sums_over(groups).tolist() == [[6, -8], [-3, 4]]

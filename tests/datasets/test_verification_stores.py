"""Retrained outcomes, score files and tables that may be missing."""

import numpy as np
import polars as pl
import pytest

from sourcetrace.datasets import (
    OptionalParquetDataset,
    RetrainedOutcomesDataset,
    ShardedParquetDataset,
)
from sourcetrace.datasets.retrained_outcomes import RetrainedOutcome, RetrainedOutcomes
from sourcetrace.datasets.score_files import ScoreFiles
from sourcetrace.schemas import VerificationOutcomes, VerificationPlan, VerificationSummary


def test_an_outcome_comes_back_exactly(tmp_path):
    store = RetrainedOutcomesDataset(str(tmp_path / "outcomes")).load()
    outcome = RetrainedOutcome(1.5, [0.1 + 0.2, -1e-300], ["ä", "b"])
    assert "key" not in store
    store.put("key", outcome)
    assert store["key"] == outcome
    assert [file.name for file in (tmp_path / "outcomes").iterdir()] == ["key.json"]


@pytest.mark.parametrize("content", ["", '{"seconds": 1.0', '{"seconds": 1.0}'])
def test_a_damaged_outcome_is_no_outcome(tmp_path, content, caplog):
    (tmp_path / "key.json").write_text(content)
    assert "key" not in RetrainedOutcomes(tmp_path)
    assert "is damaged; its retraining is done again" in caplog.text


def test_an_outcome_that_is_no_number_is_not_kept(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        RetrainedOutcomes(tmp_path).put("key", RetrainedOutcome(1.0, [float("nan")], None))
    assert "key" not in RetrainedOutcomes(tmp_path)


def write_scores(folder, ids, values, sizes):
    dataset = ShardedParquetDataset(str(folder))
    start = 0
    for size in sizes:
        rows = slice(start, start + size)
        column = pl.Series("scores", values[rows], dtype=pl.Array(pl.Float32, values.shape[1]))
        dataset.save(pl.DataFrame({"example_id": ids[rows], "scores": column}))
        start += size
    return ScoreFiles(folder)


def test_the_digest_is_of_the_scores_and_not_of_the_files(tmp_path):
    values = np.arange(12, dtype=np.float32).reshape(4, 3)
    ids = ["a", "b", "c", "d"]
    digest = write_scores(tmp_path / "1", ids, values, [4]).digest()
    assert write_scores(tmp_path / "2", ids, values, [1, 3]).digest() == digest
    assert write_scores(tmp_path / "3", ["a", "b", "d", "c"], values, [4]).digest() != digest
    changed = values.copy()
    changed[2, 1] += 1e-3
    assert write_scores(tmp_path / "4", ids, changed, [2, 2]).digest() != digest


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

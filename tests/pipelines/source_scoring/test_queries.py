"""What the units say of each query is what all scores say, whether these are kept or not."""

import numpy as np
import polars as pl
import pytest

from sourcetrace.datasets.score_files import stored_scores
from sourcetrace.pipelines.source_scoring import ranges
from sourcetrace.pipelines.source_scoring.queries import describe_queries
from sourcetrace.schemas import QueryHelpers, QueryShares, QueryStrongest
from sourcetrace.work.ledger import Ledger
from tests.pipelines.source_scoring.test_work import Audit, tables


@pytest.fixture(scope="module")
def audit(tmp_path_factory):
    return Audit(tmp_path_factory.mktemp("audit"))


def described(audit, root, **options):
    """Return the tables of scores, and what is said of the queries."""
    scored = tables(audit.scored(Ledger(root), **options))
    ledger = Ledger(root)
    ledger.refresh()
    found = describe_queries(audit.shared(ledger, **options), scored[4])
    for schema, table in zip((QueryStrongest, QueryShares, QueryHelpers), found, strict=True):
        schema.validate(table)
    return scored, found


def kept(precision, **options):
    return {"precision": {"stored_scores": precision}, "strongest_examples": 3, **options}


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_it_is_what_the_stored_scores_say_however_they_are_cut(
    audit, tmp_path, monkeypatch, precision
):
    monkeypatch.setattr(ranges, "_AT_ONCE", 17)  # two batches of four examples for two queries
    (rows, influence, *_), (strongest, shares, helpers) = described(
        audit, tmp_path / "ranges", **kept(precision)
    )
    scores = rows.select(stored_scores(rows.lazy())).to_series().to_numpy().astype(float)
    expected = []
    for query, column in enumerate(scores.T):  # margins: what falls on removal was helped
        for side, sign in (("helper", 1), ("harmer", -1)):
            order = [i for i in np.argsort(sign * column, kind="stable") if sign * column[i] < 0]
            expected += [
                (f"q{query}", f"e{i}", side, rank, column[i]) for rank, i in enumerate(order[:3], 1)
            ]
    assert [tuple(row) for row in strongest.iter_rows()] == expected
    helpful = (-scores).clip(0)
    assert helpers["helpers"].to_numpy() == pytest.approx(helpful.sum(0) ** 2 / (helpful**2).sum(0))
    assert shares.filter(kind="stage")["share"].to_list() == [1, 1]
    rel = 1e-6 if precision == "float32" else 1e-3
    assert influence["absolute_score"].to_numpy() == pytest.approx(np.abs(scores).sum(1), rel=rel)
    options = kept(precision, range_size=len(scores))
    _, (whole, *_) = described(audit, tmp_path / "one", **options)
    assert whole.select("query_id", "example_id", "side", "rank").equals(
        strongest.select("query_id", "example_id", "side", "rank")
    )


def test_what_is_said_of_queries_needs_no_scores_on_disk(audit, tmp_path):
    whole, said = described(audit, tmp_path / "whole", **kept("float32"))
    alone, same = described(audit, tmp_path / "alone", **kept("strongest"))
    assert alone[0].columns == ["example_id", "scores_digest"]
    assert alone[0]["example_id"].equals(whole[0]["example_id"])
    assert alone[0]["scores_digest"].n_unique() == 3  # one a range
    for one, other in zip((*alone[1:], *same), (*whole[1:], *said), strict=True):
        assert one.equals(other)
    again, _ = described(audit, tmp_path / "again", **kept("strongest"))
    assert again[0].equals(alone[0])


def test_shares_by_stage_are_of_all_scores(audit, tmp_path, monkeypatch):
    stages = [["early"], ["early", "late"]] * 11
    table = audit.setup.inputs.train_table.with_columns(stage=pl.Series(stages))
    monkeypatch.setitem(vars(audit.setup.inputs), "train_table", table)
    (rows, *_), (_, shares, _) = described(audit, tmp_path)
    sizes = np.abs(rows["scores"].to_numpy()).astype(float)
    expected = sizes[::2].sum(0) / sizes.sum(0)
    found = shares.filter(kind="stage")
    assert found["name"].unique(maintain_order=True).to_list() == ["early", "early, late"]
    assert found.filter(name="early")["share"].to_numpy() == pytest.approx(expected)
    assert found.filter(name="early, late")["share"].to_numpy() == pytest.approx(1 - expected)

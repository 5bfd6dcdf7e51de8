"""Queries explained by stored tables: the worst first, and what there is to say of each."""

import polars as pl
import pytest

from sourcetrace.errors import InputError
from sourcetrace.reporting.queries.view import Measurement, QueryView
from sourcetrace.schemas import QueryShares, QueryStrongest


def query_view(queries=3, *, text="good film", higher_is_better=True, count=2, probability=None):
    """Return a view of queries q0, q1, …, the first measured worst, of examples e0, e1, …"""
    sign = -1 if higher_is_better else 1
    ids = [f"q{i}" for i in range(queries)]
    return QueryView(
        method="source",
        training_examples=100,
        measurement=Measurement(
            name="margin" if higher_is_better else "loss",
            higher_is_better=higher_is_better,
            by_token=False,
        ),
        query_strongest=QueryStrongest.frame(
            (query, f"e{rank}", side, rank, score / rank)
            for query in ids
            for side, score in (("helper", sign * 0.5), ("harmer", sign * -0.5))
            for rank in range(1, count + 1)
        ),
        query_shares=QueryShares.frame(
            (query, kind, name, share)
            for query in ids
            for kind, name, share in (
                ("stage", "train", 1.0),
                ("segment", "1 (train)", 0.25),
                ("segment", "2 (train)", 0.75),
            )
        ),
        query_signals=pl.DataFrame(
            {
                "example_id": ids,
                "measurement": [-sign * float(i) for i in range(queries)],
                "predicted_label": "7",
                "given_label_probability": pl.Series(
                    probability or [None] * queries, dtype=pl.Float64
                ),
            }
        ),
        query_table=pl.DataFrame({"example_id": ids, "label": "1", "text": text}),
        train_table=pl.DataFrame(
            {
                "example_id": [f"e{i}" for i in range(count + 1)],
                "label": None,
                "stage": [["train"]] * (count + 1),
                "text": text,
                "pixels": [[0.0]] * (count + 1),
            }
        ),
    )


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_a_query_has_its_strongest_and_its_shares(higher_is_better):
    view = query_view(higher_is_better=higher_is_better)
    assert view.worst(2) == ["q0", "q1"]
    found = view.explained(["q2", "q0"], 1)
    first, _ = found.queries
    assert first.example_id == "q2"
    assert first.helpers[0].model_dump(include={"example_id", "label", "text"}) == {
        "example_id": "e1",
        "label": None,
        "text": "good film",
    }
    assert len(first.helpers) == len(first.harmers) == 1
    assert found.helps(first.helpers[0].score)
    assert not found.helps(first.harmers[0].score)
    assert first.shares == {
        "stage": {"train": 1.0},
        "segment": {"1 (train)": 0.25, "2 (train)": 0.75},
    }
    worse = first.without_helpers < first.measurement
    assert worse == higher_is_better


def test_margins_are_known_by_their_probabilities():
    assert not query_view().explained(["q0"]).log_odds
    assert query_view(probability=[0.5, 0.7310586, 0.8807971]).explained(["q0"]).log_odds
    assert not query_view(probability=[0.5, 0.6, 0.7]).explained(["q0"]).log_odds


def test_a_query_without_examples_is_one_and_an_unknown_one_is_none():
    view = query_view(count=0)
    (query,) = view.explained(["q1"]).queries
    assert query.helpers == query.harmers == ()
    assert query.without_helpers == query.measurement
    with pytest.raises(InputError, match=r"no query 'q9' among the 3 queries"):
        view.explained(["q9"])

"""Queries are the null of the suspects, and control how many of these are right labels."""

import numpy as np
import pytest

from sourcetrace.audit.suggestions.false_discovery import false_discovery


def drawn(*, right, wrong, queries, seed):
    """Return evidence of right labels, then of wrong ones, and of queries."""
    random = np.random.default_rng(seed)
    evidence = np.concatenate([random.logistic(-3, size=right), random.logistic(3, size=wrong)])
    return evidence, random.logistic(-3, size=queries)


@pytest.mark.parametrize("queries", [60, 300, 2000])
def test_the_share_of_right_labels_among_the_suspects_is_about_what_is_asked_for(queries):
    shares, found = [], []
    for seed in range(20):
        evidence, held_out = drawn(right=900, wrong=100, queries=queries, seed=seed)
        values, why = false_discovery(evidence, held_out)
        assert not why
        suspects = values <= 0.2
        shares.append(suspects[:900].sum() / max(1, suspects.sum()))
        found.append(suspects[900:].mean())
    assert np.mean(shares) < 0.25
    assert np.mean(found) > 0.5


def test_nearly_none_is_a_suspect_where_every_label_is_right():
    counts = []
    for seed in range(20):
        evidence, queries = drawn(right=1000, wrong=0, queries=300, seed=seed)
        counts.append(int((false_discovery(evidence, queries)[0] <= 0.2).sum()))
    assert np.mean(np.array(counts) > 0) < 0.3
    assert np.median(counts) == 0


def test_harm_that_tells_wrong_labels_finds_more_and_harm_of_nothing_changes_little():
    evidence, queries = drawn(right=900, wrong=100, queries=200, seed=1)
    evidence = evidence - 2 * (np.arange(1000) >= 900)
    noise = np.random.default_rng(1).normal(size=1000) / 4
    counts = [
        (false_discovery(evidence, queries, harm=harm)[0][900:] <= 0.2).sum()
        for harm in (np.zeros(1000), noise, noise + 3 * (np.arange(1000) >= 900))
    ]
    assert counts[2] > counts[0]
    assert abs(counts[1] - counts[0]) < 15


def test_the_order_of_the_evidence_is_kept():
    evidence, queries = drawn(right=200, wrong=20, queries=100, seed=0)
    values, _ = false_discovery(evidence, queries)
    assert (np.diff(values[np.argsort(-evidence)]) >= 0).all()
    assert values.min() >= 0
    assert values.max() <= 1


def test_where_the_queries_are_no_null_the_bulk_is_and_says_so():
    evidence, queries = drawn(right=900, wrong=50, queries=200, seed=0)
    values, why = false_discovery(evidence, queries[:20])
    assert "fewer than 50 queries" in why
    assert (values[900:] <= 0.2).mean() > 0.5
    assert "not like the training examples" in false_discovery(evidence, queries - 20)[1]
    assert (false_discovery(np.zeros(10), np.zeros(0))[0] == 1).all()
    assert (false_discovery(np.zeros(100), np.zeros(100))[0] == 1).all()

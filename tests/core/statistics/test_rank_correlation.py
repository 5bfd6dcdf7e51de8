"""The linear datamodeling score against rank correlations computed one at a time."""

import math

import pytest
import torch
from torch import Tensor

from sourcetrace.core.statistics import retraining
from sourcetrace.core.statistics.rank_correlation import rank_correlation
from sourcetrace.core.statistics.retraining import rank_correlation_interval
from tests.tiny import seeded


def linear_datamodeling_score(scores: Tensor, subsets: Tensor, measurements: Tensor) -> Tensor:
    """Return the score of every query: minus the sum over the subset is what is predicted."""
    return rank_correlation(-(subsets.double() @ scores.T), measurements)


def ranks(values: list[float]) -> list[float]:
    """Return the mean of the places a value could take: equal values share theirs."""
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) - 1) / 2
        for value in values
    ]


def spearman(first: list[float], second: list[float]) -> float:
    a, b = ranks(first), ranks(second)
    mean = (len(a) - 1) / 2
    products = sum((x - mean) * (y - mean) for x, y in zip(a, b, strict=True))
    return products / math.sqrt(sum((x - mean) ** 2 for x in a) * sum((y - mean) ** 2 for y in b))


def outcomes() -> tuple[Tensor, Tensor, Tensor]:
    """Return scores [3, 10], subsets [20, 10] and measurements [20, 3] with ties in both."""
    with seeded(41):
        scores = torch.randint(-2, 3, (3, 10)).double()
        subsets = torch.rand(20, 10) < 0.5
        measurements = torch.randint(5, (20, 3)).double()
    return scores, subsets, measurements


def test_equals_the_rank_correlation_of_each_query_with_minus_the_summed_scores():
    scores, subsets, measurements = outcomes()
    expected = []
    for query in range(3):
        sums = [-sum(scores[query, i].item() for i in range(10) if subset[i]) for subset in subsets]
        expected.append(spearman(sums, measurements[:, query].tolist()))
    found = linear_datamodeling_score(scores, subsets, measurements)
    assert found.tolist() == pytest.approx(expected, rel=1e-12)


def test_scores_that_foresee_retraining_get_1_and_their_opposite_minus_1():
    """A measurement that falls by an example's score when it is removed: the sign of removal."""
    scores, subsets, _ = outcomes()
    # Removing example i changes the measurement by its score: present, it takes -score.
    measurements = -(subsets.double() @ scores.T)
    assert linear_datamodeling_score(scores, subsets, measurements).tolist() == pytest.approx(
        [1.0] * 3
    )
    assert linear_datamodeling_score(-scores, subsets, measurements).tolist() == pytest.approx(
        [-1.0] * 3
    )


def test_a_measurement_that_never_changes_correlates_with_nothing():
    scores, subsets, _ = outcomes()
    found = linear_datamodeling_score(scores, subsets, torch.ones(20, 3, dtype=torch.float64))
    assert found.tolist() == [0.0] * 3


def test_the_interval_holds_the_score_and_is_reproducible(monkeypatch):
    monkeypatch.setattr(retraining, "_RESAMPLES", 200)
    scores, subsets, measurements = outcomes()
    mean = linear_datamodeling_score(scores, subsets, measurements).mean().item()
    pairs = (-(subsets.double() @ scores.T), measurements)
    low, high = rank_correlation_interval(*pairs)
    assert low < mean < high
    assert (low, high) == rank_correlation_interval(*pairs)
    monkeypatch.setattr(retraining, "_LEVEL", 0.5)
    narrow = rank_correlation_interval(*pairs)
    assert low < narrow[0] < narrow[1] < high


@pytest.mark.parametrize("factor", [2**-20, 8])
def test_the_unit_of_the_scores_does_not_matter(factor):
    scores, subsets, measurements = outcomes()
    assert torch.equal(
        linear_datamodeling_score(factor * scores, subsets, measurements),
        linear_datamodeling_score(scores, subsets, measurements),
    )

"""Noise ceiling and removal slope against plain computations and worlds with known answers."""

import math

import pytest
import torch

from sourcetrace.core.statistics import retraining
from sourcetrace.core.statistics.rank_correlation import rank_correlation
from sourcetrace.core.statistics.retraining import (
    mean_interval,
    noise_ceiling,
    removal_slope,
    removal_slope_interval,
    split_half_reliability,
)
from tests.core.statistics.test_rank_correlation import spearman
from tests.tiny import seeded


def noisy(seeds, subsets, queries, noise):
    """Return what subsets really give [subsets, Q], and noisy retrainings of it."""
    with seeded(11):
        truth = torch.randn(subsets, queries, dtype=torch.float64)
        return truth, truth + noise * torch.randn(seeds, subsets, queries, dtype=torch.float64)


def plain_reliability(measurements, splits):
    found = []
    for first, second in splits:
        for query in range(measurements.shape[2]):
            halves = [
                [
                    sum(float(measurements[s, subset, query]) for s in half)
                    for subset in range(measurements.shape[1])
                ]
                for half in (first, second)
            ]
            found.append(spearman(*halves))
    return sum(found) / len(found)


@pytest.mark.parametrize(
    ("seeds", "splits"),
    [
        (2, [((0,), (1,))]),
        (3, [((0,), (1,)), ((0,), (2,)), ((1,), (2,))]),
        (4, [((0, 1), (2, 3)), ((0, 2), (1, 3)), ((0, 3), (1, 2))]),
    ],
)
def test_reliability_is_the_mean_correlation_of_halves_over_all_splits(seeds, splits):
    _, measurements = noisy(seeds, 9, 4, noise=1.0)
    expected = plain_reliability(measurements, splits)
    assert split_half_reliability(measurements) == pytest.approx(expected, rel=1e-10)


def test_without_noise_the_ceiling_is_1():
    truth, _ = noisy(4, 9, 3, noise=0.0)
    c = split_half_reliability(truth.expand(4, -1, -1))
    assert c == pytest.approx(1)
    assert noise_ceiling(c, seeds=4) == pytest.approx(1)
    assert noise_ceiling(c, seeds=3) == pytest.approx(1)


def test_random_splits_of_many_seeds_are_reproducible_and_close_to_all(monkeypatch):
    _, measurements = noisy(8, 30, 20, noise=1.0)
    every = split_half_reliability(measurements)
    monkeypatch.setattr(retraining, "_SPLITS", 10)
    few = split_half_reliability(measurements)
    assert few == split_half_reliability(measurements)
    assert few == pytest.approx(every, abs=0.03)


@pytest.mark.parametrize("c", [0.1, 0.42, 0.88])
def test_the_ceiling_of_an_even_number_of_seeds_is_the_root_of_2c_over_1_plus_c(c):
    for seeds in (2, 4, 40):
        assert noise_ceiling(c, seeds=seeds) == pytest.approx(math.sqrt(2 * c / (1 + c)), rel=1e-12)


@pytest.mark.parametrize("seeds", [2, 3, 6])
def test_scores_that_know_the_truth_reach_the_ceiling_and_no_more(seeds):
    truth, measurements = noisy(seeds, 60, 300, noise=1.5)
    ceiling = noise_ceiling(split_half_reliability(measurements), seeds=seeds)
    reached = float(rank_correlation(truth, measurements.mean(0)).mean())
    assert reached == pytest.approx(ceiling, abs=0.02)


def test_one_seed_knows_no_ceiling_and_opposite_halves_give_0():
    _, measurements = noisy(1, 9, 3, noise=1.0)
    assert math.isnan(split_half_reliability(measurements))
    assert math.isnan(noise_ceiling(math.nan, seeds=1))
    opposed = torch.cat([measurements, -measurements])
    assert noise_ceiling(split_half_reliability(opposed), seeds=2) == 0


def changes():
    with seeded(3):
        predicted = torch.randn(40, dtype=torch.float64)
        return predicted, torch.randn(40, dtype=torch.float64), torch.arange(40) // 4


def test_the_slope_of_an_exactly_linear_world_is_1_and_its_interval_a_point():
    predicted, _, clusters = changes()
    assert removal_slope(predicted, predicted) == pytest.approx(1, rel=1e-12)
    low, high = removal_slope_interval(predicted, predicted, clusters)
    assert (low, high) == pytest.approx((1, 1), rel=1e-12)


@pytest.mark.parametrize("factor", [0.2, 3.0, -1.0])
def test_the_slope_tells_units_apart_where_ranks_do_not(factor):
    predicted, noise, _ = changes()
    measured = predicted + 0.1 * noise
    assert removal_slope(factor * predicted, measured) == pytest.approx(
        removal_slope(predicted, measured) / factor, rel=1e-12
    )


def test_the_slope_has_the_least_squared_error_of_all_lines_through_the_origin():
    predicted, measured, _ = changes()
    slope = removal_slope(predicted, measured)

    def error(candidate):
        return sum((y - candidate * x) ** 2 for x, y in zip(predicted, measured, strict=True))

    assert error(slope) < min(error(slope + 1e-4), error(slope - 1e-4))


def test_the_interval_resamples_whole_clusters():
    predicted, noise, clusters = changes()
    measured = predicted + noise
    low, high = removal_slope_interval(predicted, measured, clusters)
    assert low < removal_slope(predicted, measured) < high
    assert (low, high) == removal_slope_interval(predicted, measured, clusters)
    one = removal_slope_interval(predicted, measured, torch.zeros(40, dtype=torch.int64))
    assert one == pytest.approx((removal_slope(predicted, measured),) * 2, rel=1e-12)


def test_predictions_of_no_change_have_no_slope():
    assert math.isnan(removal_slope(torch.zeros(3), torch.ones(3)))
    low, high = removal_slope_interval(torch.zeros(3), torch.ones(3), torch.arange(3))
    assert math.isnan(low)
    assert math.isnan(high)


def test_the_interval_of_a_mean_narrows_with_the_number_of_values():
    _, values, _ = changes()
    low, high = mean_interval(values)
    assert low < values.mean() < high
    more_low, more_high = mean_interval(values.repeat(16))
    assert more_high - more_low < 0.4 * (high - low)

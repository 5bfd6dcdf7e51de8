"""What repeated and targeted retraining says of scores, beside their rank correlation.

Two seeds on the same subset do not agree: the noise ceiling is the rank correlation that
perfect scores would reach. Ranks say nothing of units: the removal slope is the measured change
for each unit of predicted change, 1 where the scores are in the measurement's units.
"""

import itertools
import math

import torch
from scipy.special import stdtrit
from torch import Tensor

from sourcetrace.core.statistics.rank_correlation import rank_correlation

_SPLITS = 50
"""Of the seeds into halves, at most."""

_RESAMPLES = 1000
"""Bootstrap samples of an interval."""

_LEVEL = 0.95
"""Of an interval."""

_SEED = 0


def split_half_reliability(measurements: Tensor) -> float:
    """Return c, the rank correlation of the mean outcomes of two halves of the seeds.

    The mean over queries and over splits: every split where there are at most `_SPLITS`, else as
    many random ones. Of an odd number of seeds each split leaves one out.

    Args:
        measurements: After retraining, [seeds, subsets, Q].

    Returns:
        c between -1 and 1; NaN for a single seed.
    """
    seeds, half = len(measurements), len(measurements) // 2
    if half == 0:
        return math.nan
    correlations = [
        rank_correlation(measurements[first].mean(0), measurements[second].mean(0)).mean()
        for first, second in _halves(seeds, half)
    ]
    return float(torch.stack(correlations).mean())


def noise_ceiling(reliability: float, *, seeds: int) -> float:
    """Return the rank correlation that perfect scores reach with the mean over `seeds`.

    √(2c/(1+c)) for an even number of seeds. In general the halves hold ⌊seeds/2⌋ seeds, and
    the mean over k times as many has the reliability kc/(1+(k-1)c) (Spearman and Brown 1910);
    perfect scores correlate with it by the square root. 0 where c is not above 0.
    """
    if math.isnan(reliability):
        return math.nan
    lengthened = seeds / (seeds // 2)
    c = max(reliability, 0.0)
    return math.sqrt(lengthened * c / (1 + (lengthened - 1) * c))


def removal_slope(predicted: Tensor, measured: Tensor) -> float:
    """Return the slope of measured on predicted change, least squares through the origin.

    Through the origin, because removing nothing changes nothing; an intercept would hide a
    bias that the slope is there to show.

    Args:
        predicted: Σ scores over the removed examples, [R].
        measured: Change of the measurement after retraining without them, [R].

    Returns:
        The slope; NaN where every predicted change is 0.
    """
    x, y = predicted.double(), measured.double()
    square = float((x * x).sum())
    return float((x * y).sum()) / square if square > 0 else math.nan


def removal_slope_interval(
    predicted: Tensor, measured: Tensor, clusters: Tensor
) -> tuple[float, float]:
    """Return the percentile interval of the slope, resampling clusters.

    Args:
        predicted: As in `removal_slope`.
        measured: As in `removal_slope`.
        clusters: Number of the query of each removal, [R]: removals of one query are compared
            with the same retrainings on all data, and so are no independent points.
    """
    x, y = predicted.double(), measured.double()
    sums = _cluster_sums(torch.stack([x * y, x * x], dim=1), clusters)
    return _ratio_interval(sums[:, 0], sums[:, 1])


def mean_interval(values: Tensor) -> tuple[float, float]:
    """Return the percentile interval of the mean of values [R]."""
    values = values.double()
    return _ratio_interval(values, torch.ones_like(values))


def paired_interval(differences: Tensor) -> tuple[float, float]:
    """Return Student's 95 % interval of the mean of differences [S], S ≥ 2.

    Seeds are too few to be resampled: of five, the percentile interval holds the mean too seldom.
    """
    count = len(differences)
    error = float(differences.double().std()) / math.sqrt(count)
    reach = float(stdtrit(count - 1, (1 + _LEVEL) / 2)) * error
    middle = float(differences.double().mean())
    return middle - reach, middle + reach


def rank_correlation_interval(predictions: Tensor, measurements: Tensor) -> tuple[float, float]:
    """Return the percentile interval of the mean rank correlation over queries.

    Subsets are resampled, the same for every query.

    Args:
        predictions: Predicted measurements, up to a constant a query, [subsets, Q].
        measurements: Mean measurement after retraining, [subsets, Q].
    """
    generator = torch.Generator().manual_seed(_SEED)
    count = len(predictions)
    means = []
    for _ in range(_RESAMPLES):
        index = torch.randint(count, (count,), generator=generator)
        means.append(rank_correlation(predictions[index], measurements[index]).mean())
    return _percentile_interval(torch.stack(means))


def _halves(seeds: int, half: int) -> list[tuple[list[int], list[int]]]:
    if math.comb(seeds, half) * math.comb(seeds - half, half) // 2 <= _SPLITS:
        numbers = range(seeds)
        return [
            (list(first), list(second))
            for first in itertools.combinations(numbers, half)
            for second in itertools.combinations(sorted(set(numbers) - set(first)), half)
            if first < second
        ]
    generator = torch.Generator().manual_seed(_SEED)
    orders = [torch.randperm(seeds, generator=generator).tolist() for _ in range(_SPLITS)]
    return [(order[:half], order[half : 2 * half]) for order in orders]


def _cluster_sums(values: Tensor, clusters: Tensor) -> Tensor:
    """Return the sums of the rows [R, K] of every cluster, [C, K]."""
    _, numbers = torch.unique(clusters, return_inverse=True)
    sums = torch.zeros(int(numbers.max()) + 1, values.shape[1], dtype=values.dtype)
    return sums.index_add(0, numbers, values)


def _ratio_interval(numerators: Tensor, denominators: Tensor) -> tuple[float, float]:
    """Return the interval of Σ numerators / Σ denominators, [C] each, resampling rows."""
    generator = torch.Generator().manual_seed(_SEED)
    count = len(numerators)
    index = torch.randint(count, (_RESAMPLES, count), generator=generator)
    ratios = numerators[index].sum(1) / denominators[index].sum(1)
    # A sample of nothing but zeros has no slope.
    ratios = ratios[ratios.isfinite()]
    if len(ratios) == 0:
        return math.nan, math.nan
    return _percentile_interval(ratios)


def _percentile_interval(values: Tensor) -> tuple[float, float]:
    """Return the bounds between which the middle `_LEVEL` of the values [R] lies."""
    tail = (1 - _LEVEL) / 2
    low, high = values.double().quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64))
    return float(low), float(high)

"""The linear datamodeling score: do the scores predict real retraining?

For every query, the Spearman correlation over subsets of the training data between the sum
of the subset's scores and the query's measurement after retraining on the subset. Scores are
removal-signed, so the prediction is minus the sum.

Source: Park et al. 2023 (TRAK), arXiv 2303.14186.
"""

import torch
from scipy.stats import rankdata
from torch import Tensor


def rank_correlation_interval(
    predictions: Tensor,
    measurements: Tensor,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the percentile interval of the mean rank correlation over queries.

    Subsets are resampled, the same for every query.

    Args:
        predictions: Predicted measurements, up to a constant a query, [subsets, Q].
        measurements: Mean measurement after retraining, [subsets, Q].
        resamples: Bootstrap samples.
        level: Of the interval.
        seed: Of the samples.
    """
    generator = torch.Generator().manual_seed(seed)
    count = len(predictions)
    means = []
    for _ in range(resamples):
        index = torch.randint(count, (count,), generator=generator)
        means.append(rank_correlation(predictions[index], measurements[index]).mean())
    return percentile_interval(torch.stack(means), level=level)


def percentile_interval(values: Tensor, *, level: float) -> tuple[float, float]:
    """Return the bounds between which the middle `level` of the values [R] lies."""
    tail = (1 - level) / 2
    low, high = values.double().quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64))
    return float(low), float(high)


def rank_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Return Spearman's correlation down the columns of two [subsets, Q] tensors, [Q]."""
    a, b = _ranks(first), _ranks(second)
    a, b = a - a.mean(0), b - b.mean(0)
    norm = (a.square().sum(0) * b.square().sum(0)).sqrt()
    # A column without any difference correlates with nothing.
    return torch.where(norm > 0, (a * b).sum(0) / norm.clamp(min=1e-300), 0.0)


def _ranks(values: Tensor) -> Tensor:
    """Return ranks down the columns; equal values share the mean of theirs, as in resamples."""
    return torch.from_numpy(rankdata(values.double().numpy(), axis=0))

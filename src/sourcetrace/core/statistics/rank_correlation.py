"""The linear datamodeling score: do the scores predict real retraining?

For every query, the Spearman correlation over subsets of the training data between the sum
of the subset's scores and the query's measurement after retraining on the subset. Scores are
removal-signed, so the prediction is minus the sum.

Source: Park et al. 2023 (TRAK), arXiv 2303.14186.
"""

import scipy
import torch
from torch import Tensor


def rank_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Return Spearman's correlation down the columns of two [subsets, Q] tensors, [Q]."""
    a, b = _ranks(first), _ranks(second)
    a, b = a - a.mean(0), b - b.mean(0)
    norm = (a.square().sum(0) * b.square().sum(0)).sqrt()
    # A column without any difference correlates with nothing.
    return torch.where(norm > 0, (a * b).sum(0) / norm.clamp(min=1e-300), 0.0)


def _ranks(values: Tensor) -> Tensor:
    """Return ranks down the columns; equal values share the mean of theirs, as in resamples."""
    return torch.from_numpy(scipy.stats.rankdata(values.double().numpy(), axis=0))

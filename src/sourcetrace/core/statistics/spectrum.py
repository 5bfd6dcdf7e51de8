"""An eigenvalue spectrum in a few numbers, so that it can be kept and compared later."""

import torch
from torch import Tensor

LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1.0)
"""Quantiles that are kept; close to each other at the upper end, where the weight is."""

_SORTED_AT_MOST = 2**20


def spectrum_quantiles(eigenvalues: Tensor) -> list[float]:
    """Return the eigenvalues' quantiles at `LEVELS`, by the nearest value below.

    Of more than a million eigenvalues evenly spaced ones are sorted; the largest is always exact.

    Args:
        eigenvalues: Of any shape, at least one.
    """
    values = eigenvalues.flatten()
    step = -(-len(values) // _SORTED_AT_MOST)
    ordered = values[::step].double().sort().values
    places = [int(level * (len(ordered) - 1)) for level in LEVELS[:-1]]
    return [*ordered[torch.tensor(places)].tolist(), float(values.max())]
